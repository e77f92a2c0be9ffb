"""The sentence that stands wherever a score is shown."""

NOTICE = "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
