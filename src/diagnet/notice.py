"""The sentence that stands wherever a score is shown."""

NOTICE = "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
NO_DEVICE = "Research software, not a medical device"
SYNTHETIC_FLAG = "SYNTHETIC: this model was trained on computer-made phantoms; its scores say nothing about a patient"


def notice_of(is_synthetic: bool) -> str:
    """Return the notice, stamped where a model trained on phantoms speaks; at most 64 letters, as DICOM's LO takes."""
    return f"SYNTHETIC - {NOTICE}" if is_synthetic else NOTICE
