import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diagnet.data.image import image_size, read_image, read_picture
from diagnet.data.quiet import quiet
from diagnet.errors import DataError, RefusedInputError
from dicom_files import drawn_breast, write_dicom

DEEP = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    PIL.Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_not_clipped(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"image.{suffix}", DEEP))
    np.testing.assert_allclose(image, DEEP / DEEP.max(), atol=1e-6)
    assert image.dtype == np.float32


def test_big_endian_tiff(tmp_path: Path) -> None:
    PIL.Image.frombytes("I;16B", (8, 8), DEEP.astype(">u2").tobytes()).save(tmp_path / "image.tif")
    np.testing.assert_allclose(read_image(tmp_path / "image.tif"), DEEP / DEEP.max(), atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_eight_bits(tmp_path: Path, suffix: str) -> None:
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0)
    image = read_image(save(tmp_path / f"image.{suffix}", ramp))
    np.testing.assert_allclose(image, ramp / 252, atol=0.02 if suffix == "jpg" else 1e-6)


def test_color_becomes_grey_and_alpha_is_dropped(tmp_path: Path) -> None:
    grey = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    alpha = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for name, layers in (("rgb", [grey] * 3), ("rgba", [grey] * 3 + [alpha]), ("la", [grey, alpha])):
        image = read_image(save(tmp_path / f"{name}.png", np.stack(layers, axis=-1)))
        np.testing.assert_allclose(image, grey / 252, atol=1e-6)


def test_a_color_picture_is_refused_and_a_tint_or_a_small_mark_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 200, (40, 50, 1), dtype=np.uint8), 3, axis=2)
    plasma = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for path in (save(tmp_path / "p.png", plasma), save(tmp_path / "p.jpg", plasma), save(tmp_path / "p.tif", plasma)):
        with pytest.raises(RefusedInputError, match=r"`image` must be grey, got a picture of which \d+ % is in color"):
            read_image(path)
    PIL.Image.fromarray(plasma).quantize(16).save(tmp_path / "palette.png")
    with pytest.raises(RefusedInputError, match="must be grey"):
        read_image(tmp_path / "palette.png")
    tinted, marked, much = grey.copy(), grey.copy(), grey.copy()
    tinted[..., 2] += 30
    marked[:4, :5] = (255, 0, 0)  # 1 % of the pixels
    much[:4, :6] = (255, 0, 0)
    for name, pixels in (("tinted", tinted), ("marked", marked)):
        assert read_image(save(tmp_path / f"{name}.png", pixels)).shape == (40, 50)
    with pytest.raises(RefusedInputError, match="must be grey, got a picture of which 1 % is in color"):
        read_image(save(tmp_path / "much.png", much))


def test_palette_and_single_bit(tmp_path: Path) -> None:
    grey = PIL.Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8))
    grey.convert("P").save(tmp_path / "palette.png", transparency=b"\0\1\2")
    np.testing.assert_allclose(read_image(tmp_path / "palette.png"), np.asarray(grey) / 252, atol=1e-6)
    grey.point(lambda value: 255 * (value > 99), "1").save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bit.png"), np.asarray(grey) > 99)


def test_dicom_by_suffix_or_by_content(tmp_path: Path) -> None:
    write_dicom(tmp_path / "image.dcm", DEEP[:, :6])
    (tmp_path / "image").write_bytes((tmp_path / "image.dcm").read_bytes())
    for name in ("image.dcm", "image"):
        np.testing.assert_allclose(read_image(tmp_path / name), DEEP[:, :6] / DEEP[:, :6].max(), atol=1e-6)
        assert image_size(tmp_path / name) == (6, 8)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_size_is_width_and_height(tmp_path: Path, suffix: str) -> None:
    assert image_size(save(tmp_path / f"image.{suffix}", np.zeros((5, 7), np.uint8))) == (7, 5)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_gives_zeros(tmp_path: Path, value: int) -> None:
    assert not read_image(save(tmp_path / "image.png", np.full((4, 4), value, np.uint16))).any()
    assert not read_image(write_dicom(tmp_path / "image.dcm", np.full((4, 4), value, np.uint16))).any()


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got a broken or other file"):
        read_image(save(tmp_path / "image.tif", np.array([[0, np.nan]], np.float32)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files_are_told_in_one_line(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(tmp_path / f"image.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"`image` must be a whole PNG, .* file: .*image\.{suffix}\.") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", [read_image, image_size])
def test_other_files_and_missing_files_are_told(tmp_path: Path, reader: object) -> None:
    assert callable(reader)
    (tmp_path / "image.png").write_text("no image")
    with pytest.raises(DataError, match="got a broken or other file"):
        reader(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"got No such file or directory: .*none\.png"):
        reader(tmp_path / "none.png")
    with pytest.raises(DataError, match="got a folder"):
        reader(tmp_path)
    PIL.Image.new("L", (3, 3)).save(tmp_path / "image.gif")
    with pytest.raises(DataError, match="must be a whole PNG, JPEG, TIFF, PGM or DICOM file"):
        reader(tmp_path / "image.gif")


@pytest.mark.parametrize("side", [10_001, 12_000, 60_000])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    for reader in (read_image, image_size):
        with pytest.raises(RefusedInputError, match=r"million pixels, got|too many pixels in .*bomb\.png"):
            reader(tmp_path / "bomb.png")


def test_several_pages_are_refused(tmp_path: Path) -> None:
    page = PIL.Image.fromarray(DEEP)
    page.save(tmp_path / "image.tif", save_all=True, append_images=[page, page])
    with pytest.raises(RefusedInputError, match="must be a single page, got several"):
        read_image(tmp_path / "image.tif")


def test_warnings_of_others_are_heard_and_filters_survive_threads() -> None:
    before = list(warnings.filters)
    inside = threading.Barrier(2)

    def first() -> None:
        with quiet():
            inside.wait()

    thread = threading.Thread(target=first)
    thread.start()
    with quiet():
        inside.wait()
        thread.join()
        warnings.warn_explicit("hidden", UserWarning, "file", 1, module="pydicom.valuerep")
        with pytest.warns(UserWarning, match="heard"):
            warnings.warn("heard", UserWarning, stacklevel=1)
    assert list(warnings.filters) == before


def test_a_deep_tiff_whose_white_is_0_is_refused(tmp_path: Path) -> None:
    """Pillow gives its stored values, which are the picture's negative."""
    path = save(tmp_path / "image.tif", DEEP)
    black_is_0 = b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00"  # PhotometricInterpretation, one short number
    assert path.read_bytes().count(black_is_0) == 1
    path.write_bytes(path.read_bytes().replace(black_is_0, black_is_0[:8] + b"\x00\x00"))
    with pytest.raises(RefusedInputError, match=r"got a TIFF with white as 0: .*image\.tif\. Fix: save it"):
        read_image(path)
    shallow = save(tmp_path / "shallow.tif", (DEEP >> 8).astype(np.uint8))
    upright = read_image(shallow)
    shallow.write_bytes(shallow.read_bytes().replace(black_is_0, black_is_0[:8] + b"\x00\x00"))
    np.testing.assert_allclose(read_image(shallow), 1 - upright, atol=1e-6)  # 8 bits it turns around itself


def png16(path: Path, layers: np.ndarray, color: int) -> Path:
    """Write a PNG of 16 bits and several channels, which Pillow cannot, each row with another filter."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, n_layers = layers.shape
    rows = np.frombuffer(layers.astype(">u2").tobytes(), np.uint8).reshape(height, -1).astype(int)
    data = b""
    for number, row in enumerate(rows):
        above = rows[number - 1] if number else np.zeros_like(row)
        left = np.concatenate([np.zeros(2 * n_layers, int), row[: -2 * n_layers]])
        predicted = (np.zeros_like(row), left, above, (left + above) // 2)[number % 4]
        data += bytes([number % 4]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize(("color", "n_grey", "has_alpha"), [(4, 1, True), (2, 3, False), (6, 3, True)])
def test_sixteen_bits_of_several_channels_are_kept(tmp_path: Path, color: int, n_grey: int, has_alpha: bool) -> None:
    rng = np.random.default_rng(0)
    grey = np.sort(rng.integers(30000, 30000 + 500, 24 * 24)).reshape(24, 24)  # two values of the high byte
    alpha = rng.integers(0, 65536, grey.shape)
    layers = np.stack([grey] * n_grey + [alpha] * has_alpha, axis=-1)
    expected = (grey - grey.min()) / np.ptp(grey)
    image = read_image(png16(tmp_path / "image.png", layers, color))
    np.testing.assert_allclose(image, expected, atol=1e-4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_layers", [3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiffs_of_sixteen_bits_and_several_channels_are_kept(
    tmp_path: Path, order: str, n_layers: int, compression: str | None
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="no tifffile: TIFFs of 16 bits and colors were not tested")
    grey = (np.arange(400) + 30000).reshape(20, 20).astype(np.uint16)
    layers = np.stack([grey] * n_layers, axis=-1)
    extra = {"extrasamples": ["unassalpha"]} if n_layers == 4 else {}
    tifffile.imwrite(
        tmp_path / "image.tif", layers, byteorder=order, photometric="rgb", compression=compression, **extra
    )
    np.testing.assert_allclose(read_image(tmp_path / "image.tif"), np.linspace(0, 1, 400).reshape(20, 20), atol=1e-4)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", ">u4", "<i4", ">i4", "<f4", ">f4"])
def test_tiffs_of_any_depth_and_sign_are_not_wrapped(tmp_path: Path, dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile", reason="no tifffile: TIFFs of all depths were not tested")
    kind = np.dtype(dtype)
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind in "iu" else (-1e6, 3e9)
    values = np.linspace(low, high, 64).reshape(8, 8).astype(kind)
    order = ">" if dtype[0] == ">" else "<"
    tifffile.imwrite(tmp_path / "image.tif", values, byteorder=order, photometric="minisblack")
    if dtype == ">u4":  # Pillow knows none
        with pytest.raises(DataError, match="got a broken or other file"):
            read_image(tmp_path / "image.tif")
        return
    np.testing.assert_allclose(read_image(tmp_path / "image.tif"), np.linspace(0, 1, 64).reshape(8, 8), atol=1e-2)
    assert (np.diff(read_image(tmp_path / "image.tif").ravel()) >= 0).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "dcm"])
def test_an_inverted_mammogram_is_flagged(tmp_path: Path, suffix: str) -> None:
    drawn = (drawn_breast() // 16).astype(np.uint8)
    for pixels, is_negative in ((drawn, False), (255 - drawn, True), (drawn[60:100, 20:60], False)):
        path = tmp_path / f"image.{suffix}"
        if suffix == "dcm":
            write_dicom(path, np.ascontiguousarray(pixels[: len(pixels) // 2 * 2]))
        else:
            save(path, np.ascontiguousarray(pixels))
        flag = "the background is bright: this may be a negative"
        assert (flag in read_picture(path).warnings) is is_negative


@pytest.mark.parametrize("kind", ["P5", "P2"])
@pytest.mark.parametrize("largest", [255, 4095, 65535])
def test_pgm_keeps_all_its_bits(tmp_path, kind, largest):
    values = np.linspace(0, largest, 40 * 30).astype(int).reshape(40, 30)
    whole = (
        " ".join(map(str, values.ravel())).encode()
        if kind == "P2"
        else values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    )
    path = tmp_path / "mass.pgm"
    path.write_bytes(f"{kind} 30 40 {largest}\n".encode() + whole)
    np.testing.assert_allclose(read_image(path), values / largest, atol=1e-4)
    assert image_size(path) == (30, 40)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="must be a whole PNG, JPEG, TIFF, PGM or DICOM file"):
        read_image(path)
