"""The images at hand: those of a folder given at start, and those a client sent."""

import hashlib
import hmac
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from starlette.exceptions import HTTPException

from diagnet.app.exam import Exam, exam_of
from diagnet.app.problems import Refusal, missing_here, refused
from diagnet.clinic.privacy import Pseudonyms, without_path
from diagnet.data.box import Box
from diagnet.data.image import read_picture
from diagnet.data.mammogram import Mammogram
from diagnet.data.marked import Marked
from diagnet.data.mass import MALIGNANT
from diagnet.errors import DiagNetError, MissingExtraError, printable
from diagnet.inference.assessment import Policy

_KEPT_BYTES = 512 * 2**20  # of decoded images, and again of their pixels as they are sent, on disk
_CHUNK = 2**20
_PREFIX = "diagnet-uploads-"
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"P2", ".pgm"),
    (b"P5", ".pgm"),
)
_SUFFIXES = {
    ".dcm": ".dcm",
    ".dicom": ".dcm",
    ".png": ".png",
    ".jpg": ".jpg",
    ".jpeg": ".jpg",
    ".tif": ".tif",
    ".tiff": ".tif",
    ".pgm": ".pgm",
    ".pnm": ".pgm",
}


@dataclass(frozen=True, slots=True)
class ServedImage:
    """One image as the page knows it.

    Attributes:
        id: stands for the content: the same image has the same id after a restart.
        name: an ordinal and the kind of file; a file's own name could be a patient's.
        path: of the file, never told to a client.
        is_uploaded: whether it is removed at the end.
        policy: how it may be read.
        boxes: masses marked beforehand.
        is_malignant: whether its worst mass is, None where that is not known.
        original_size: (width, height) before somebody stretched it.
        exam: whose breast it shows, and in which study.
        facts: what is told of it; `width` 0 until it was read for the first time.
    """

    id: str
    name: str
    path: Path
    is_uploaded: bool
    policy: Policy = Policy()  # noqa: RUF009 -- frozen, so sharing it is safe
    boxes: tuple[Box, ...] = ()
    is_malignant: bool | None = None
    original_size: tuple[float, float] | None = None
    exam: Exam = Exam()  # noqa: RUF009 -- as above
    facts: Mapping[str, Any] = field(default_factory=dict)


class ImageStore:
    """Holds images by id. Uploaded ones are files of mode 0600 in a folder of its own, which `close` removes.

    Args:
        key: makes ids of contents; whoever lacks it cannot tell from an id what the image is.
        max_images: that clients may send.
        max_bytes: of all files that are being sent at a time.
        keep_s: after which an uploaded image that nobody asked for is removed.
        keep_names: tell clients the files' own names, which may be patients', instead of ordinals.
    """

    def __init__(
        self, key: bytes, *, max_images: int, keep_s: float, keep_names: bool = False, max_bytes: int = 2**30
    ) -> None:
        self._keep_names = keep_names
        self._names = Pseudonyms(key)
        self._key, self._max_images, self._keep_s = key, max_images, keep_s
        _remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))  # mode 0700
        self._lock = threading.RLock()
        self._shown: dict[str, ServedImage] = {}
        self._asked: dict[str, float] = {}
        self._pictures: OrderedDict[str, Mammogram] = OrderedDict()
        self._sent: OrderedDict[tuple[str, int | None], tuple[Path, tuple[int, int]]] = OrderedDict()
        self._n_named = self._n_expected = self._bytes_expected = 0
        self._max_bytes = max_bytes

    def offer(self, found: Sequence[Marked], labels: Mapping[str, str]) -> None:
        """Show the images of a folder or table given at start; they are only read, and read when they are asked for.

        Args:
            found: images with what is marked on them.
            labels: of images by their real path, where they are known from elsewhere.
        """
        for each in found:
            try:
                with _open_regular(each.image) as file:
                    image_id = self._id(hashlib.file_digest(file, "sha256").digest())
            except OSError:
                continue
            exam = exam_of(each.image, self._names, each)
            known = {*each.labels, labels.get(os.path.realpath(each.image), "")} - {""}
            with self._lock:
                self._shown[image_id] = ServedImage(
                    id=image_id,
                    name=self._name(_SUFFIXES.get(each.image.suffix.lower(), ""), each.image.name),
                    path=each.image,
                    is_uploaded=False,
                    boxes=tuple(box for box in each.boxes if box is not None),
                    is_malignant=MALIGNANT in known if known else None,
                    original_size=each.original_size,
                    exam=exam,
                    facts=_unread(exam),
                )

    @contextmanager
    def expected(self, n_bytes: int, is_held: bool) -> Iterator[None]:
        """Keep room for a file that is being sent, so that all those under way do not fill the disk together.

        Args:
            n_bytes: that were announced.
            is_held: whether it will count among the images held.

        Raises:
            HTTPException: as many images are held or under way as may be (409), or as many bytes under way (503).
        """
        self._forget_old()
        with self._lock:
            if is_held:
                self._check_number(self._n_expected)
            if self._bytes_expected + n_bytes > max(self._max_bytes, n_bytes):
                raise HTTPException(503, "Too much is being sent. Try again later.", headers={"Retry-After": "2"})
            self._n_expected, self._bytes_expected = self._n_expected + is_held, self._bytes_expected + n_bytes
        try:
            yield
        finally:
            with self._lock:
                self._n_expected, self._bytes_expected = self._n_expected - is_held, self._bytes_expected - n_bytes

    def _check_number(self, n_expected: int) -> None:
        if sum(each.is_uploaded for each in self._shown.values()) + n_expected >= self._max_images:
            raise HTTPException(409, f"At most {self._max_images} images are held. Remove one first.")

    def add(self, content: BinaryIO, policy: Policy, own_name: str = "") -> ServedImage:
        """Take in an image that a client sent, and read it.

        Args:
            content: of the file.
            policy: how it may be read.
            own_name: of the file, as the client sent it.

        Raises:
            HTTPException: it is of no known kind (415), cannot be used (422), or there are too many (409).
        """
        with self._lock:
            self._check_number(0)
        path, digest = self.stored(content, policy)
        image_id, exam = self._id(digest), exam_of(path, self._names)
        with self._lock:  # files are read several at a time: of two that are alike, one is taken
            is_new = image_id not in self._shown
            if is_new:
                self._shown[image_id] = ServedImage(
                    image_id, self._name(path.suffix, own_name), path, True, policy, exam=exam, facts=_unread(exam)
                )
                self._asked[image_id] = time.monotonic()
        if not is_new:  # sent again
            path.unlink()
            return self.described(image_id)
        try:
            return self.described(image_id)
        except HTTPException:
            self.remove(image_id)
            raise

    def stored(self, content: BinaryIO, policy: Policy) -> tuple[Path, bytes]:
        """Write what a client sent to a file of mode 0600; return it and the content's SHA-256.

        Raises:
            HTTPException: 415, it is no DICOM, PNG, JPEG, TIFF or PGM file.
        """
        content.seek(0)
        suffix = _kind(content.read(132), policy)
        content.seek(0)
        path = self._folder / f"{secrets.token_hex(16)}{suffix}"
        digest = hashlib.sha256()
        try:
            with os.fdopen(_new(path), "wb") as file:
                while chunk := content.read(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
        except OSError:  # the disk is full
            path.unlink(missing_ok=True)
            raise
        return path, digest.digest()

    def all(self) -> list[ServedImage]:
        """All images, those given at start first."""
        self._forget_old()
        with self._lock:
            return list(self._shown.values())

    def get(self, image_id: str) -> ServedImage:
        """Return an image by its id.

        Raises:
            HTTPException: 404, there is none.
        """
        with self._lock:
            if image_id not in self._shown:
                raise HTTPException(404, "There is no image of this id.")
            self._asked[image_id] = time.monotonic()
            return self._shown[image_id]

    def described(self, image_id: str) -> ServedImage:
        """Return an image with its facts, for which it is read once.

        Raises:
            HTTPException: there is none (404), or it cannot be used (422).
        """
        shown = self.get(image_id)
        if not shown.facts["width"]:
            self.picture(image_id)
        return self.get(image_id)

    def is_read(self, image_id: str) -> bool:
        """Tell whether an image's pixels are in memory."""
        with self._lock:
            return image_id in self._pictures

    def picture(self, image_id: str) -> Mammogram:
        """Return an image as displayed, read again only where others have pushed it out of memory.

        Raises:
            HTTPException: there is none (404), or it cannot be used (422).
        """
        shown = self.get(image_id)
        with self._lock:
            if image_id in self._pictures:
                self._pictures.move_to_end(image_id)
                return self._pictures[image_id]
        self.check_content(shown)
        try:
            picture = picture_of(shown)
        except Refusal as refusal:
            with self._lock:
                if image_id in self._shown:
                    facts = {**shown.facts, "state": "refused", "reason": refusal.detail}
                    self._shown[image_id] = replace(shown, facts=facts)
            raise
        with self._lock:
            if image_id in self._shown:  # else removed meanwhile
                self._shown[image_id] = replace(shown, facts=_facts(picture, shown.exam))
                self._pictures[image_id] = picture
            while sum(each.pixels.nbytes for each in self._pictures.values()) > _KEPT_BYTES and len(self._pictures) > 1:
                self._pictures.popitem(last=False)
        return picture

    def check_content(self, shown: ServedImage) -> None:
        """Check that a file given at start is still what its id stands for; an uploaded one nobody can change.

        Raises:
            HTTPException: 410, it was changed or removed.
        """
        if shown.is_uploaded:
            return
        try:
            with _open_regular(shown.path) as file:
                is_same = self._id(hashlib.file_digest(file, "sha256").digest()) == shown.id
        except OSError:
            is_same = False
        if not is_same:
            raise Refusal(410, "This image is no longer here: its file was changed or removed.", "gone")

    def sent(self, image_id: str, max_side: int | None) -> tuple[BinaryIO, tuple[int, int]]:
        """Return an image's pixels as an open file, and (height, width): slow readers take no memory.

        Raises:
            HTTPException: there is none (404), its file is another now (410), or it cannot be used (422).
        """
        asked = image_id, max_side
        self.get(image_id)
        with self._lock:
            if asked in self._sent:
                self._sent.move_to_end(asked)
                path, shape = self._sent[asked]
                return path.open("rb"), shape
        pixels = reduced(self.picture(image_id), max_side)
        path = self._folder / f"{secrets.token_hex(16)}.pixels"
        try:
            with os.fdopen(_new(path), "wb") as file:
                file.write(pixels.data)
            opened = path.open("rb")
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._sent[asked] = path, (pixels.shape[0], pixels.shape[1])
            while sum(2 * high * wide for _, (high, wide) in self._sent.values()) > _KEPT_BYTES:
                self._sent.popitem(last=False)[1][0].unlink()  # whoever has it open reads on
            if image_id not in self._shown:
                self._forget_sent(image_id)
        return opened, (pixels.shape[0], pixels.shape[1])

    def _forget_sent(self, image_id: str) -> None:
        for asked in [each for each in self._sent if each[0] == image_id]:
            self._sent.pop(asked)[0].unlink()

    def remove(self, image_id: str) -> None:
        """Forget an image; an uploaded one's file is removed.

        Raises:
            HTTPException: 404, there is none.
        """
        shown = self.get(image_id)
        with self._lock:
            self._shown.pop(image_id, None)
            self._asked.pop(image_id, None)
            self._pictures.pop(image_id, None)
            self._forget_sent(image_id)
        if shown.is_uploaded:
            shown.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove every uploaded file."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _forget_old(self) -> None:
        oldest = time.monotonic() - self._keep_s
        with self._lock:
            for image_id in [each for each, asked in self._asked.items() if asked < oldest]:
                if image_id in self._shown and self._shown[image_id].is_uploaded:
                    self.remove(image_id)

    def _name(self, suffix: str, own: str) -> str:
        self._n_named += 1
        if self._keep_names and own:
            return printable(own)[:200]
        return f"image {self._n_named}{suffix}"

    def _id(self, digest: bytes) -> str:
        return hmac.new(self._key, digest, hashlib.sha256).hexdigest()[:24]


def picture_of(shown: ServedImage) -> Mammogram:
    """Read an image's file.

    Raises:
        HTTPException: 422, it cannot be used.
    """
    try:
        return read_picture(
            shown.path,
            allow_for_processing=shown.policy.allow_for_processing,
            bare="any" if shown.policy.allow_missing_preamble else "none",
        )
    except DiagNetError as error:
        kind, reason = "refused-input", without_path(str(error), shown.path, shown.name)
        if isinstance(error, MissingExtraError):
            kind, reason = "missing-extra", missing_here(error)
        raise refused(reason, kind) from None


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _open_regular(path: Path) -> BufferedReader:
    """Open a regular file; a pipe in its place would be waited for."""
    if not path.is_file():
        raise FileNotFoundError
    return path.open("rb")


def _unread(exam: Exam) -> dict[str, Any]:
    """What is known of an image before its pixels are."""
    return {
        "width": 0,
        "height": 0,
        "spacing_mm": None,
        "ends": None,
        "flags": [],
        "steps": [],
        "state": "new",
        "reason": "",
    } | asdict(exam)


def reduced(picture: Mammogram, max_side: int | None) -> np.ndarray:
    """Return the displayed grey values in 16 bits, made smaller where they are larger than `max_side`."""
    pixels = picture.pixels
    height, width = pixels.shape
    if max_side is not None and max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        # The mean of whole blocks first: resampling forty million pixels by itself takes a second.
        pixels = np.asarray(
            PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BOX, reducing_gap=2.0), dtype=np.float32
        )
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * np.float32(65535)).astype("<u2"))


def _facts(picture: Mammogram, exam: Exam) -> dict[str, Any]:
    height, width = picture.pixels.shape
    found = {"width": width, "height": height, "spacing_mm": picture.spacing_mm, "flags": list(picture.warnings)}
    sides = {"laterality": picture.laterality or exam.laterality, "view": picture.view or exam.view}
    return _unread(exam) | found | sides | {"steps": list(picture.steps), "ends": picture.ends}


def _remove_leftovers() -> None:
    """Remove the uploads of servers that were killed before they could do so."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            if folder.stat().st_uid != os.getuid() or not number.isdigit():
                continue
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, AttributeError):  # somebody else's, or a system without such numbers
            continue


def _kind(head: bytes, policy: Policy) -> str:
    if head[128:132] == b"DICM":
        return ".dcm"
    for magic, suffix in _MAGIC:
        if head.startswith(magic):
            return suffix
    if policy.allow_missing_preamble:  # a DICOM file without preamble has no sign at its head
        return ".dcm"
    raise Refusal(415, "`file` must be a DICOM, PNG, JPEG, TIFF or PGM file, got another.", "unknown-kind-of-file")
