"""Reader studies: cases in random order, read without the model first, then with it; kept over restarts."""

import hashlib
import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from diagnet.app.shapes import ScoreRequest
from diagnet.data.table import table_text
from diagnet.run.folder import now, read_json, write_json

STAGES = ("without", "with")


class ReadingRoom:
    """The reading sessions of a state folder, a JSON file each.

    A session is one reader's, on one set of cases, in the order of one seed. Its id takes it up again; a reader's code
    does not, for two readers may have thought of the same one.

    Args:
        folder: where sessions are kept; it is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, reader: str, seed: int | None, images: Sequence[str]) -> dict[str, Any]:
        """Begin a session.

        Args:
            reader: a code.
            seed: of the order; None draws one.
            images: ids.

        Raises:
            HTTPException: 409, there are no images, or a reader of this code has begun to read them.
        """
        if not images:
            raise HTTPException(409, "There must be images to read. Open some, or start the server with --images.")
        cases = sorted(images)
        with self._lock:
            if self._has_read(reader, seed, cases):
                raise HTTPException(
                    409,
                    "`reader` must be a code that has not read these images, got one that has."
                    " Fix: take another code, or go on with the study by its id.",
                )
            if seed is None:
                seed = secrets.randbelow(2**31)
            session = hashlib.sha256(json.dumps([reader, seed, cases]).encode()).hexdigest()[:24]
            order = np.random.default_rng([seed, *hashlib.sha256(reader.encode()).digest()]).permutation(len(cases))
            found = {"id": session, "reader": reader, "seed": seed, "begun": now(), "scores": []}
            write_json(self._path(session), found | {"cases": [cases[i] for i in order]})
            return self._told(session)

    def _has_read(self, reader: str, seed: int | None, cases: Sequence[str]) -> bool:
        """Tell whether a reader has begun to read these cases, in the order of this seed or, without one, in any."""
        begun = [read_json(path) for path in self._folder.glob("*.json")]
        return any(
            each["reader"] == reader and sorted(each["cases"]) == cases and seed in (None, each["seed"])
            for each in begun
        )

    def session(self, session: str) -> dict[str, Any]:
        """Return a session.

        Raises:
            HTTPException: 404, there is none of this id.
        """
        with self._lock:
            return self._told(session)

    def score(self, session: str, given: ScoreRequest) -> dict[str, Any]:
        """Write down a score; none is ever changed.

        Raises:
            HTTPException: there is no such session (404), the image is none of its cases (422), it was scored at this
                stage, or is scored with the model before it was scored without (409).
        """
        with self._lock:
            found = self._read(session)
            if given.image not in found["cases"]:
                raise HTTPException(422, "`image` must be one of the session's cases.")
            done = _done(found["scores"], given.image)
            if given.stage in done:
                raise HTTPException(409, f"This image was scored {given.stage} the model already.")
            if given.stage == "with" and "without" not in done:
                raise HTTPException(409, "The first read is without the model.")
            found["scores"].append(given.model_dump(mode="json") | {"time": now()})
            write_json(self._path(session), found)
            return self._told(session)

    def as_imrmc(self, session: str, truth: Mapping[str, bool | None]) -> str:
        """Return scores as iMRMC reads them: `readerID,caseID,modalityID,score`, rows of truth with reader -1.

        A case in which no mass was seen has the score 0, without the model and with it.
        The data come after the line `BEGIN DATA:`. Scored cases without truth are left out: iMRMC refuses them.

        Cases are numbers, as some readers of this layout need: 1 for the first of the session's sorted ids.

        Args:
            session: its id.
            truth: whether an image is malignant, by id; None where that is not known.

        Raises:
            HTTPException: 404, there is none of this id.

        Source: Gallas et al., iMRMC, https://github.com/DIDSR/iMRMC.
        """
        with self._lock:
            found = self._read(session)
        number = {image: place for place, image in enumerate(sorted(found["cases"]), start=1)}
        known = [
            (case, is_malignant) for image, case in number.items() if (is_malignant := truth.get(image)) is not None
        ]
        rows: list[tuple[object, ...]] = [("BEGIN DATA:",)]
        rows += [(-1, case, "truth", int(is_malignant)) for case, is_malignant in known]
        has_truth = {case for case, _ in known}
        for stage in STAGES:
            for each in sorted(found["scores"], key=lambda each: number[each["image"]]):
                if number[each["image"]] not in has_truth:
                    continue
                if each["stage"] == stage or each.get("no_mass"):  # the model said nothing, so the reader's score stays
                    rows.append((found["reader"], number[each["image"]], f"{stage}-model", f"{each['score']:g}"))
        return table_text(("readerID", "caseID", "modalityID", "score"), rows)

    def _told(self, session: str) -> dict[str, Any]:
        found = self._read(session)
        is_done = [set(STAGES) == _done(found["scores"], image) for image in found["cases"]]
        following = is_done.index(False) if False in is_done else len(is_done)
        return found | {"next": following, "is_complete": all(is_done)}

    def _read(self, session: str) -> dict[str, Any]:
        if not self._path(session).exists():
            raise HTTPException(404, "There is no reading session of this id.")
        return read_json(self._path(session))

    def _path(self, session: str) -> Path:
        return self._folder / f"{session}.json"


def _done(scores: Sequence[Mapping[str, Any]], image: str) -> set[str]:
    of_image = [each for each in scores if each["image"] == image]
    # Where no mass was seen there is nothing for the model to score: the case is read.
    return set(STAGES) if any(each.get("no_mass") for each in of_image) else {each["stage"] for each in of_image}
