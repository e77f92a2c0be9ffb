"""A task performer: it claims workitems of a worklist, has their marked images scored, and says what came of it.

What it has claimed lies in `workitems/` of the queue before the worklist hears of it, so that a crash loses none. The
scoring is the worker's; what came of which marks is read from `notes/`, `done/` and `failed/`.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydicom.uid import generate_uid

from diagnet.clinic.listener import Incoming, kind_of
from diagnet.clinic.privacy import silenced, without_path
from diagnet.clinic.queue import Kind, Queue
from diagnet.clinic.worker import Tell, Worker, repeat
from diagnet.clinic.workitem import (
    NOT_COMPLETE,
    NOT_SCORED,
    NOT_USABLE,
    TOO_LATE,
    Code,
    Input,
    Outcome,
    Output,
    Workitem,
    ending,
    progress,
)
from diagnet.clinic.worklist import GoneError, RefusedError, Worklist, cut_out
from diagnet.data.dicom import read_identity
from diagnet.errors import DataError, DiagNetError, NetworkError, NotTakenError, RefusedInputError
from diagnet.run.folder import read_json, write_json

_STOP_S = 2.0  # that the end waits for a request; what it cuts short goes on at the next start
_MAX_PASSED = 10_000  # workitems that are told of once
_ENDED = ("COMPLETED", "CANCELED")


class PerformerSettings(BaseModel):
    """Which workitems are ours, and how long they may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Code | None = Field(None, description="Scheduled workitem code of ours; None for any.")
    station: Code | None = Field(None, description="Scheduled station name code of ours; None for any.")
    poll_seconds: float = Field(30.0, gt=0, description="Between two searches.")
    step_seconds: float = Field(5.0, gt=0, description="Between two looks at what was claimed.")
    max_claimed: int = Field(8, ge=1, description="Workitems that are claimed at one time.")
    wait_hours: float = Field(1.0, gt=0, description="After which a claimed workitem without results is canceled.")
    keep_hours: float = Field(168.0, gt=0, description="How long a worklist is asked to take an end that it refuses.")


class Task(BaseModel):
    """A workitem that is claimed, or may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: Workitem
    transaction: str
    begun: float  # seconds since the epoch
    is_claimed: bool = False
    is_fetched: bool = False
    outcome: Outcome | None = None


class Performer:
    """Takes workitems in a thread of its own."""

    def __init__(
        self, queue: Queue, worklist: Worklist, worker: Worker, where: str, tell: Tell, settings: PerformerSettings
    ) -> None:
        """Know the parts; nothing is asked yet.

        Args:
            queue: where inputs are put.
            worklist: where workitems come from.
            worker: scores what is in the queue; its settings must have `notes`.
            where: the archive that results are sent to: the address of its web service, or its AE title.
            tell: hears what happens.
            settings: which workitems are ours.
        """
        self.queue, self.worklist, self.worker, self.where = queue, worklist, worker, where
        self.tell, self.settings = tell, settings
        self._passed: set[str] = set()  # what was told once
        self._next = 0.0  # when the worklist is searched again, by the monotonic clock
        self._stop, self._wake = threading.Event(), threading.Event()
        facts = self.step, self._wake, self._stop, settings.step_seconds, tell
        self._thread = threading.Thread(target=repeat, args=facts, name="performer", daemon=True)

    def start(self) -> None:
        """Begin to work, with what was claimed before."""
        self._thread.start()

    def stop(self) -> None:
        """End the request under way; the rest waits in the queue."""
        self._stop.set()
        self._wake.set()
        self.worklist.close()
        self._thread.join(_STOP_S)

    def step(self) -> None:
        """Go on with what was claimed, and claim more where it is time and there are places.

        Raises:
            DiagNetError: what held up the last of those that could not go on.
        """
        held_up: DiagNetError | None = None
        for path in self._tasks():
            try:
                self._advance(path, Task.model_validate(read_json(path)))
            except DiagNetError as error:  # the others may go on
                held_up = error
            if self._stop.is_set():
                return
        if time.monotonic() >= self._next and len(self._tasks()) < self.settings.max_claimed:
            try:
                self._look()
                self._next = time.monotonic() + self.settings.poll_seconds
            except DiagNetError as error:
                held_up = error
        if held_up is not None and not self._stop.is_set():
            raise held_up

    def _tasks(self) -> list[Path]:
        return sorted(self.queue.place("workitems").glob("[!.]*.json"))

    def _save(self, path: Path, task: Task, **changes: object) -> Task:
        """Keep how far a workitem has come; when this returns, not even a power cut loses it."""
        changed = task.model_copy(update=changes)
        write_json(path, changed.model_dump(mode="json"))
        self.queue.flush("workitems")
        return changed

    def _look(self) -> None:
        """Search for workitems that are ours to do, and claim them."""
        for uid in self.worklist.search(self.settings.code, self.settings.station):
            if self._stop.is_set() or len(self._tasks()) >= self.settings.max_claimed:
                return
            path = self.queue.place("workitems") / f"{self.queue.name(uid)}.json"
            if path.exists():
                continue
            try:
                item = self.worklist.retrieve(uid)
            except (DataError, GoneError) as error:
                self._pass(path, str(error))
                continue
            if not self._is_ours(item):  # a server may not know all that was searched by
                self._pass(path, "it is not scheduled for us, or its inputs are not ready")
                continue
            task = Task(item=item, transaction=generate_uid(None), begun=time.time())
            self._advance(path, self._save(path, task))

    def _pass(self, path: Path, why: str) -> None:
        if path.stem not in self._passed:
            if len(self._passed) >= _MAX_PASSED:
                self._passed.clear()
            self._passed.add(path.stem)
            self.tell(f"passed over a workitem: {why}", path.stem)

    def _is_ours(self, item: Workitem) -> bool:
        wanted = self.settings
        return (
            item.state == "SCHEDULED"
            and item.is_ready
            and (wanted.code is None or wanted.code.is_in(item.codes))
            and (wanted.station is None or wanted.station.is_in(item.stations))
        )

    def _advance(self, path: Path, task: Task) -> None:
        """Take a workitem as far as it goes now."""
        if not task.is_claimed:
            if not self._claim(path, task):
                return
            task = self._save(path, task, is_claimed=True)
            self.tell("claimed a workitem", path.stem)
        if task.outcome is None:
            outcome, task = self._found(path, task)
            if outcome is None:
                return
            task = self._save(path, task, outcome=outcome)
        self._end(path, task)

    def _claim(self, path: Path, task: Task) -> bool:
        """Claim a workitem; where it is refused, a crash may have come between an earlier claim and its answer."""
        uid = task.item.uid
        try:
            self.worklist.change(uid, task.transaction, "IN PROGRESS")
        except RefusedError:
            if self._has(uid, task.transaction):
                return True
            self.tell("left a workitem to somebody who was faster", path.stem)
        except GoneError:
            self.tell("left a workitem: it is gone", path.stem)
        else:
            return True
        path.unlink()
        return False

    def _has(self, uid: str, transaction: str) -> bool:
        """Tell whether a workitem is ours: only who claimed it may say how far it is."""
        with suppress(RefusedError, GoneError):
            if self.worklist.retrieve(uid).state == "IN PROGRESS":
                self.worklist.update(uid, transaction, progress(transaction, 0, "claimed"))
                return True
        return False

    def _found(self, path: Path, task: Task) -> tuple[Outcome | None, Task]:
        """Find out what came of a workitem; None where that is still open."""
        is_late = path in self.queue.expired("workitems", 3600 * self.settings.wait_hours, "*.json")
        outcome = self._outcome(task.item)
        if not task.is_fetched and (outcome is None or outcome.reason is not None):
            try:
                outcome = self._fetch_all(task.item)
            except NetworkError as error:
                if not is_late:
                    raise
                return Outcome(reason=TOO_LATE, said=str(error)), task
            task = self._save(path, task, is_fetched=True)
            outcome = outcome or self._outcome(task.item)
        if outcome is None and is_late:
            said = "`inputs` must come and be scored in time, got no result of them"
            outcome = Outcome(reason=TOO_LATE, said=said)
        return outcome, task

    def _end(self, path: Path, task: Task) -> None:
        """Say what came of a workitem, and end it; after a crash this is done again, and refused where it was done."""
        uid, outcome = task.item.uid, task.outcome or Outcome()
        said = f"{outcome.state}, {len(outcome.outputs)} results" + (f": {outcome.said}" if outcome.said else "")
        try:
            with silenced():  # a server's own codes are said again, however long they are
                update = ending(task.transaction, task.item, outcome, task.begun, self.where)
            self.worklist.update(uid, task.transaction, update)
            self.worklist.change(uid, task.transaction, outcome.state)
        except GoneError:
            said = "it is gone"
        except RefusedError:
            state = self.worklist.retrieve(uid).state
            is_old = path in self.queue.expired("workitems", 3600 * self.settings.keep_hours, "*.json")
            if state not in _ENDED and not is_old:
                raise
            if state != outcome.state:
                said = f"it is {state} without us" if state in _ENDED else "the worklist does not take its end"
        path.unlink()
        self.tell(f"ended a workitem: {said}", path.stem)

    def _fetch_all(self, item: Workitem) -> Outcome | None:
        """Put the inputs that are not here into the queue; those without an address may come by C-STORE."""
        marks, images = _of_kind(item, "marks"), _of_kind(item, "images")
        for what, found in (("an image", images), ("marks", marks)):
            if not found:
                return Outcome(reason=NOT_COMPLETE, said=f"`inputs` must hold {what}, got none")
        for each in (*images, *marks):  # marks last, because they are scored at once
            is_image = each in images
            if self._is_here(each, is_image=is_image) or not each.url:
                continue
            try:
                self._fetch(each, "images" if is_image else "marks")
            except GoneError as error:
                return Outcome(reason=NOT_COMPLETE, said=str(error))
            except (DataError, RefusedInputError) as error:
                return Outcome(reason=NOT_USABLE, said=str(error))
        return None

    def _is_here(self, each: Input, *, is_image: bool) -> bool:
        if is_image:
            return self.queue.image(each.uid) is not None
        return self.queue.has_marks(self.queue.name(each.uid))

    def _fetch(self, wanted: Input, kind: Kind) -> None:
        """Put one input into the queue."""
        incoming = Incoming(self.queue.place("incoming"), lambda: self.queue.has_room(0))
        try:
            facts = self.worklist.fetch(wanted, incoming.write)
            if incoming.is_refused or (kind == "marks" and self.queue.failed_is_full()):
                raise NotTakenError("`--queue` must have room for the inputs of a workitem, got none")
            incoming.close()
            cut_out(incoming.path, facts.get("boundary", ""))
            try:
                identity = read_identity(incoming.path)
            except DiagNetError as error:
                raise DataError(without_path(str(error), incoming.path)) from None
            if identity != (wanted.uid, wanted.sop_class):
                raise DataError("`instance` must be the one that was asked for, got another.")
            if kind == "marks":  # they are tried again
                self.queue.forget(self.queue.name(wanted.uid))
            if not self.queue.take(incoming.path, kind, wanted.uid):
                raise DataError("`instance` must be the one that came before with its UID, got other content.")
        finally:
            incoming.discard()
        self.worker.wake()

    def _outcome(self, item: Workitem) -> Outcome | None:
        """What came of the marks of a workitem's images; None while any of them is under way."""
        images = {self.queue.name(each.uid) for each in _of_kind(item, "images")}
        outputs: list[Output] = []
        reasons: list[str] = []
        is_scored = False
        for name in (self.queue.name(each.uid) for each in _of_kind(item, "marks")):
            is_waiting = self.queue.has_marks(name)
            noted, failure = self.queue.noted(name), self.queue.failure(name)
            if noted is None and (is_waiting or failure is None):
                return None
            jobs = {} if noted is None else noted["jobs"]
            reasons += [failure or ""] if noted is None else []
            for job in (jobs[image] for image in jobs if image in images):
                masses = self.queue.masses(job)
                if masses is not None:
                    is_scored |= any(mass["decision"] != "refused" for mass in masses)
                    reasons += [mass["reason"] for mass in masses if mass["decision"] == "refused"]
                    outputs += [Output(**each) for each in (self.queue.noted(job) or {"results": []})["results"]]
                elif self.queue.is_finished(job) or (is_waiting and not self.queue.has_failed(job)):
                    return None
                else:
                    reasons.append(self.queue.failure(job) or failure or "")
        studies = {each.study for each in item.inputs}
        if any(each.study not in studies for each in outputs):
            return Outcome(reason=NOT_USABLE, said="`inputs` must be of the studies that they are said to be of")
        why = next((each for each in reasons if each), "")[:500]
        if is_scored:
            return Outcome(outputs=tuple(outputs), said=f"not all marked masses were scored: {why}" if reasons else "")
        why = why or "`marks` must outline masses of the images of the workitem, got none"
        return Outcome(outputs=tuple(outputs), reason=NOT_SCORED, said=why)


def _of_kind(item: Workitem, kind: Kind) -> list[Input]:
    return [each for each in item.inputs if kind_of(each.sop_class) == kind]
