"""From the queue to the archive: score what has image and marks, send what was scored; each step may be repeated."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from diagnet.atomic import atomic_folder
from diagnet.clinic.forward import Destination, result_reference
from diagnet.clinic.marks import Marks, read_marks
from diagnet.clinic.picture import write_secondary_capture
from diagnet.clinic.presentation import write_presentation_state
from diagnet.clinic.privacy import without_path
from diagnet.clinic.queue import Queue
from diagnet.clinic.report import write_structured_report
from diagnet.clinic.result_page import write_result_page
from diagnet.clinic.segmentation import write_segmentation
from diagnet.clinic.source import read_source
from diagnet.data.box import Box
from diagnet.errors import DataError, DiagNetError, MissingExtraError, NotTakenError, RefusedInputError, RunFolderError
from diagnet.inference.assessment import Assessment, Policy, assess
from diagnet.inference.model import Model
from diagnet.inference.predictive_value import HeldOut, meaning_texts
from diagnet.run.folder import now, write_json
from diagnet.version import __version__

Tell = Callable[[str, str], None]  # what happened, and to what (a keyed hash, never an identifier)


class WorkerSettings(BaseModel):
    """What the worker writes and how long it waits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: bool = Field(True, description="Send a secondary capture picture beside the report.")
    presentation: bool = Field(True, description="Send a presentation state beside the report.")
    segmentation: bool = Field(False, description="Send a segmentation of what was marked beside the report.")
    pdf: bool = Field(False, description="Send a page that people read, an encapsulated PDF, beside the report.")
    keep_hours: float = Field(168.0, gt=0, description="How long an image waits for marks, and marks for an image.")
    keep_failed_hours: float = Field(720.0, gt=0, description="How long what failed is kept.")
    retry_seconds: float = Field(5.0, gt=0, description="Between two tries to send.")
    notes: bool = Field(False, description="Note what came of which marks, for a worklist.")


class Worker:
    """Scores and sends in two threads of its own, so that a slow archive holds nothing up."""

    def __init__(
        self,
        queue: Queue,
        model: Model,
        destination: Destination,
        tell: Tell,
        *,
        policy: Policy = Policy(),  # noqa: B008 -- frozen, so sharing it is safe
        settings: WorkerSettings = WorkerSettings(),  # noqa: B008 -- frozen, so sharing it is safe
        held_out: HeldOut | None = None,
    ) -> None:
        self.queue, self.model, self.destination, self.tell = queue, model, destination, tell
        self.policy, self.settings, self.held_out = policy, settings, held_out
        self._marks: dict[str, Marks] = {}  # read once, while they wait for their images
        self._arrived, self._scored, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to work."""
        for step, wake in ((self.score_ready, self._arrived), (self.send_ready, self._scored)):
            facts = step, wake, self._stop, self.settings.retry_seconds, self.tell
            thread = threading.Thread(target=repeat, args=facts, name=step.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """Say that something arrived."""
        self._arrived.set()

    def stop(self) -> None:
        """Finish what is under way; the rest waits in the queue."""
        self._stop.set()
        self._arrived.set()
        self._scored.set()
        for thread in self._threads:
            thread.join()

    def score_ready(self) -> None:
        """Score all images whose marks are there, and put the results into the outbox."""
        for path in self.queue.waiting_marks():
            if self._stop.is_set():
                return
            try:
                if path.name not in self._marks:
                    with self.queue.attempt(path.stem):
                        self._marks[path.name] = self._read_marks(path)
                self._score_marks(path, self._marks[path.name])
            except (DataError, RefusedInputError) as error:
                self._fail_marks(path, without_path(str(error), path))
            except (OSError, RunFolderError, MissingExtraError):  # nothing that this file can help: it waits
                raise
            except Exception as error:  # it must not hold up the others, nor be lost
                self._fail_marks(path, f"unexpected {type(error).__name__}")
        self._expire()

    def send_ready(self) -> None:
        """Send all results of the outbox, in the order in which they came.

        Raises:
            NetworkError: the destination cannot be reached, or did not take all of them; what it did not take stays.
        """
        not_taken: NotTakenError | None = None
        for folder in self.queue.outbox():
            if self._stop.is_set():
                return
            try:
                for path in sorted([*folder.glob("*.sending"), *folder.glob("*.dcm")]):
                    self._send(path)
            except NotTakenError as error:  # the next ones may be taken
                not_taken = error
                continue
            if self.settings.notes:
                self.queue.note(
                    folder.name, {"results": [result_reference(path) for path in sorted(folder.glob("*.sent"))]}
                )
            self.queue.set_done(folder)
            self.tell("sent", folder.name)
        if not_taken is not None:
            raise not_taken

    def _read_marks(self, path: Path) -> Marks:
        """Read marks in an order of their own; what failed before is tried again, because they were sent again."""
        found = read_marks(path)
        if found.n_passed:
            self.tell(f"passed over {found.n_passed} marks that outline no mass", path.stem)
        for uid, boxes in found.items():
            boxes.sort()
            self.queue.forget_failure(self._job(uid, boxes))
        if self.settings.notes:
            jobs = {self.queue.name(uid): self._job(uid, boxes) for uid, boxes in found.items()}
            self.queue.note(path.stem, {"jobs": jobs})
        return found

    def _job(self, uid: str, boxes: list[Box]) -> str:
        return self.queue.job(uid, self.model.sha256, __version__, self.policy.model_dump_json(), boxes)

    def _score_marks(self, path: Path, marks: Marks) -> None:
        """Score the images of one report of marks; it goes when all of them are done."""
        is_waiting = has_failed = False
        for uid, boxes in marks.items():
            job = self._job(uid, boxes)
            if self.queue.is_finished(job):
                continue
            if self.queue.has_failed(job):
                has_failed = True
                continue
            image = self.queue.image(uid)
            if image is None:
                is_waiting = True
                continue
            try:
                with self.queue.attempt(job):
                    self._score(job, image, uid, marks)
            except (DataError, RefusedInputError) as error:
                if not image.exists():  # it made room in this very moment: it may come again
                    is_waiting = True
                    continue
                has_failed = True
                self._fail(job, without_path(str(error), image))
            except (OSError, RunFolderError, MissingExtraError):  # nothing that this image can help: it waits
                raise
            except Exception as error:  # the other images of these marks have theirs
                has_failed = True
                self._fail(job, f"unexpected {type(error).__name__}")
            else:
                self.queue.set_scored(image)
        if is_waiting:
            return
        self._marks.pop(path.name, None)
        if has_failed:
            self.queue.move(path, "failed")
        else:
            path.unlink(missing_ok=True)

    def _score(self, job: str, image: Path, uid: str, marks: Marks) -> None:
        header = read_source(image)
        marks.require_same(header)
        found = [
            replace(each, image=Path(image.name), reason=without_path(each.reason, image))
            for each in assess(self.model, image, marks[uid], self.policy)
        ]
        with atomic_folder(self.queue.place("outbox") / job) as folder:
            raw = self.policy.allow_for_processing
            segmentation = None
            if self.settings.segmentation:
                with suppress(DataError, RefusedInputError):  # what cannot be read has a report with the reason
                    write_segmentation(found, image, folder / "4-segmentation.dcm", marks.outlines.get(uid))
                    segmentation = folder / "4-segmentation.dcm"
            write_structured_report(found, image, folder / "1-report.dcm", segmentation)
            if self.settings.picture:
                with suppress(DataError, RefusedInputError):  # what must not be shown has a report with the reason
                    write_secondary_capture(found, image, folder / "2-picture.dcm", allow_for_processing=raw)
            if self.settings.presentation:
                with suppress(DataError):  # a display that no state can repeat; the report says all
                    write_presentation_state(found, image, folder / "3-presentation.dcm")
            if self.settings.pdf:
                texts = meaning_texts(self.held_out, found)
                write_result_page(found, image, folder / "5-page.dcm", texts, allow_for_processing=raw)
            patient = self.queue.pseudonyms.of(str(header.PatientID), str(header.get("IssuerOfPatientID", "")))
            write_json(folder / "record.json", _record(found, patient, self.queue.name(uid)))
        self.queue.flush("outbox")
        calls = ", ".join(each.decision for each in found)
        self.tell(f"scored {len(found)} masses in {sum(each.latency_ms for each in found):.0f} ms: {calls}", job)
        self._scored.set()

    def _send(self, path: Path) -> None:
        """Send one file; where a crash left open whether it was sent, ask first."""
        if path.suffix == ".sending":
            if self.destination.has(path):
                self.queue.mark_file(path, ".sent")
                return
        else:
            path = self.queue.mark_file(path, ".sending")
        self.destination.send(path)
        self.queue.mark_file(path, ".sent")

    def _fail(self, name: str, reason: str) -> None:
        self.queue.set_failed(name, {"time": now(), "reason": reason})
        self.tell(f"failed: {reason}", name)

    def _fail_marks(self, path: Path, reason: str) -> None:
        self._marks.pop(path.name, None)
        self._fail(path.stem, reason)
        self.queue.move(path, "failed")

    def _expire(self) -> None:
        """Let go of what waited too long, and say so."""
        seconds = 3600 * self.settings.keep_hours
        for path in self.queue.expired("marks", seconds):
            self._fail_marks(path, "`image` must come to its marks, got none in the time that they are kept")
        for state in ("images", "scored"):
            for path in self.queue.expired(state, seconds):
                path.unlink(missing_ok=True)
                if state == "images":
                    self.tell("let go of an image: no marks came in the time that it is kept", path.stem)
        for path in self.queue.expired("notes", seconds, "*.json"):
            path.unlink(missing_ok=True)
        for path in self.queue.expired("failed", 3600 * self.settings.keep_failed_hours, "*"):
            path.unlink(missing_ok=True)
            self.tell("let go of what failed: the time that it is kept is over", path.stem)
        self.queue.sweep()


def repeat(step: Callable[[], None], wake: threading.Event, stop: threading.Event, seconds: float, tell: Tell) -> None:
    """Repeat a step until told to stop; whatever it meets, the thread lives on.

    Args:
        step: what is done.
        wake: that there is something to do.
        stop: that it is to end.
        seconds: after which it is done again, whatever it met.
        tell: hears what the step cannot do, once.
    """
    said = ""
    while not stop.is_set():
        wake.clear()
        try:
            step()
            said = ""
        except Exception as error:  # a fault in one object must not stop the others
            reason = str(error) if isinstance(error, DiagNetError) else type(error).__name__
            if reason != said:  # once, not every few seconds
                tell(f"waiting: {reason}", "")
            said = reason
            stop.wait(seconds)
        else:
            wake.wait(seconds)


def _record(found: list[Assessment], patient: str, image: str) -> dict[str, Any]:
    """What is kept of a result for research: keyed hashes instead of identifiers."""
    return {
        "notice": found[0].notice,
        "diagnet_version": __version__,
        "time": now(),
        "patient": patient,
        "image": image,
        "model_sha256": found[0].model_sha256,
        "masses": [
            {
                "box": each.box,
                "malignancy": each.malignancy,
                "raw_malignancy": each.raw_malignancy,
                "threshold": each.threshold,
                "decision": each.decision,
                "reason": each.reason,
                "flags": each.flags,
                "laterality": each.laterality,
                "view": each.view,
                "input_sha256": each.input_sha256,
                "latency_ms": round(each.latency_ms, 1),
            }
            for each in found
        ],
    }
