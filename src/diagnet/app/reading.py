"""Reader studies: cases in random order, read without the model first, then with it; kept over restarts."""

import hashlib
import hmac
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from diagnet.app.shapes import ScoreRequest
from diagnet.data.table import table_text
from diagnet.errors import RunFolderError
from diagnet.run.folder import now, read_json, write_json

STAGES = ("without", "with")


class ReadingRoom:
    """The reading sessions of a state folder, a JSON file each.

    A session is one reader's, on the cases, the truth, the model and the order that were there when it began: none of
    them changes afterwards, whatever becomes of the images, of the table of labels and of the model. Its id takes it
    up again; a reader's code does not, for two readers may have thought of the same one.

    Args:
        folder: where sessions are kept; it is made if it is not there.
        key: makes ids of readers' codes, which nobody can guess.
        model_sha256: of the model that scores.
        threshold: of the model.
    """

    def __init__(self, folder: Path, key: bytes, model_sha256: str, threshold: float) -> None:
        self._folder, self._key, self._lock = folder, key, threading.Lock()
        self._model = {"model_sha256": model_sha256, "threshold": threshold}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, reader: str, seed: int | None, images: Mapping[str, bool | None]) -> dict[str, Any]:
        """Begin a session.

        Args:
            reader: a code, which begins once; upper and lower case are one.
            seed: of the order; None draws one.
            images: ids, which stand for contents, and whether each is malignant, None where that is not known.

        Raises:
            HTTPException: 409, there are no images, or a reader of this code has begun.
        """
        if not images:
            raise HTTPException(409, "There must be images to read. Open some, or start the server with --images.")
        cases, code = sorted(images), reader.casefold()
        with self._lock:
            session = hmac.new(
                self._key, f"reader {code}".encode("utf-8", "surrogatepass"), hashlib.sha256
            ).hexdigest()[:24]
            if self._path(session).exists() or code in self._earlier_codes():
                raise HTTPException(
                    409,
                    "`reader` must be a code that has not begun, got one that has."
                    " Fix: take another code, or go on with the study by its id.",
                )
            if seed is None:
                seed = secrets.randbelow(2**31)
            order = np.random.default_rng([seed, *hashlib.sha256(reader.encode()).digest()]).permutation(len(cases))
            found = {"id": session, "reader": reader, "seed": seed, "begun": now(), **self._model, "scores": []}
            truth = {image: images[image] for image in cases}
            write_json(self._path(session), found | {"cases": [cases[i] for i in order], "truth": truth})
            return self._for_reader(session)

    def _earlier_codes(self) -> set[str]:
        """Codes of sessions that earlier versions began under ids of another kind."""
        found = set()
        for path in self._folder.glob("[!.]*.json"):
            try:
                found.add(str(read_json(path).get("reader", "")).casefold())
            except RunFolderError:  # a broken one keeps nobody from reading
                continue
        return found

    def session(self, session: str) -> dict[str, Any]:
        """Return a session, to go on with it.

        Raises:
            HTTPException: there is none of this id (404), or it began with another model (409).
        """
        with self._lock:
            self._check_model(self._read(session))
            return self._for_reader(session)

    def score(self, session: str, given: ScoreRequest) -> dict[str, Any]:
        """Write down a score; none is ever changed.

        Raises:
            HTTPException: there is no such session (404), the image is none of its cases (422), it was scored at this
                stage, or is scored with the model before it was scored without, or the session began with another
                model (409).
        """
        with self._lock:
            found = self._read(session)
            self._check_model(found)
            if given.image not in found["cases"]:
                raise HTTPException(422, "`image` must be one of the session's cases.")
            done = _done(found["scores"], given.image)
            if given.stage in done:
                raise HTTPException(409, f"This image was scored {given.stage} the model already.")
            if given.stage == "with" and "without" not in done:
                raise HTTPException(409, "The first read is without the model.")
            found["scores"].append(given.model_dump(mode="json") | {"time": now()})
            write_json(self._path(session), found)
            return self._for_reader(session)

    def as_imrmc(self, session: str) -> str:
        """Return scores as iMRMC reads them: `readerID,caseID,modalityID,score`, rows of truth with reader -1.

        A case in which no mass was seen has the score 0, without the model and with it.
        The data come after the line `BEGIN DATA:`. Scored cases without truth are left out: iMRMC refuses them.

        A case is named by its id, so that it has one name in the exports of all readers, and the
        modality by the model, so that two models' scores stay apart where exports are put together.

        Args:
            session: its id.

        Raises:
            HTTPException: 404, there is none of this id.

        Source: Gallas et al., iMRMC, https://github.com/DIDSR/iMRMC, InputFile.java.
        """
        with self._lock:
            found = self._read(session)
        truth = {
            image: is_malignant for image, is_malignant in found.get("truth", {}).items() if is_malignant is not None
        }
        rows: list[tuple[object, ...]] = [("BEGIN DATA:",)]
        rows += [(-1, _case(image), "truth", int(truth[image])) for image in sorted(truth)]
        modality = {"without": "without-model", "with": f"with-model-{found.get('model_sha256', '')[:8]}"}
        for stage in STAGES:
            for each in sorted(found["scores"], key=lambda each: str(each["image"])):
                if each["image"] not in truth:
                    continue
                if each["stage"] == stage or each.get("no_mass"):  # the model said nothing, so the reader's score stays
                    rows.append((found["reader"], _case(each["image"]), modality[stage], f"{each['score']:g}"))
        return table_text(("readerID", "caseID", "modalityID", "score"), rows)

    def _check_model(self, found: Mapping[str, Any]) -> None:
        """Scores of two models never meet in one session."""
        if any(found.get(name) != value for name, value in self._model.items()):
            raise HTTPException(
                409,
                "A study must go on with the model that it began with, got another."
                " Fix: start the server with that run, or begin a study under a new code.",
            )

    def _for_reader(self, session: str) -> dict[str, Any]:
        found = self._read(session)
        is_done = [set(STAGES) == _done(found["scores"], image) for image in found["cases"]]
        following = is_done.index(False) if False in is_done else len(is_done)
        told = {name: value for name, value in found.items() if name != "truth"}  # a reader must not see it
        return told | {"next": following, "is_complete": all(is_done)}

    def _read(self, session: str) -> dict[str, Any]:
        if not self._path(session).exists():
            raise HTTPException(404, "There is no reading session of this id.")
        return read_json(self._path(session))

    def _path(self, session: str) -> Path:
        return self._folder / f"{session}.json"


def _case(image: str) -> str:
    return f"case-{image}"  # with letters, so that no program takes it for a number


def _done(scores: Sequence[Mapping[str, Any]], image: str) -> set[str]:
    of_image = [each for each in scores if each["image"] == image]
    # Where no mass was seen there is nothing for the model to score: the case is read.
    return set(STAGES) if any(each.get("no_mass") for each in of_image) else {each["stage"] for each in of_image}
