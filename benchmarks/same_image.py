"""One image, stored in many ways, must have one score: pairs of quirks, and laws on the two genuine mammograms.

    python benchmarks/same_image.py --json        # a minute

Each quirk is a file that holds the pixels of a plain one in another way: its high bit, unused bits, signs, look-up
tables, windows, padding, photometric interpretation, syntax, malformed optional elements, or another kind of file. The
shipped model scores the same box on both. A pair is alike where the scores differ by at most 1e-3; it is equal where
they are the same and the hash of the displayed pixels is, too.

The laws hold for the real files of ../shared: any lossless compression, a header without one of its optional elements
and in another order, rows of air cut off or added, and a marker in the air leave the score. The hash stays where no
pixel changed.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
from pydicom import uid
from scipy import ndimage

import diagnet
from diagnet.inference.assessment import Policy

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "cbis-ddsm" / "dicom"
sys.path.insert(0, str(ROOT / "tests"))
ALIKE = 1e-3
BOX = (60.0, 180.0, 180.0, 300.0)
MASSES = {
    "mammogram_P_00173_L_CC.dcm": (928.0, 2304.0, 1239.0, 2575.0),
    "mammogram_P_00820_L_MLO.dcm": (80.0, 3176.0, 327.0, 3415.0),
}
TWELVE = {"BitsStored": 12, "HighBit": 11}
KEPT = {
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PhotometricInterpretation", "PixelData", "SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet",
}  # fmt: skip


def quirks(folder):
    """Name, plain file and the same image stored in another way."""
    from dicom_files import drawn_breast, lut, make_jpeg_lossless, patched, write_dicom

    pixels = np.rint(ndimage.zoom(drawn_breast().astype(float), 3, order=1)).clip(0, 4095).astype(np.uint16)
    is_air = pixels == 0
    garbage = pixels | np.uint16(0xB000)
    plain = write_dicom(folder / "plain.dcm", pixels, **TWELVE)

    def stored(name, values=pixels, syntax=uid.ExplicitVRLittleEndian, **elements):
        return name, plain, write_dicom(folder / f"{name.replace(' ', '-')}.dcm", values, syntax, **(TWELVE | elements))

    yield stored("high bit 15", pixels << 4, HighBit=15)
    yield stored("high bit 13", pixels << 2, HighBit=13)
    yield stored("unused bits", garbage)
    for syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless):
        yield f"unused bits, {syntax.name}", plain, _with(folder, garbage, syntax)
    yield stored("signed", pixels.astype(np.int16) - 2048, PixelRepresentation=1, RescaleIntercept=2048, RescaleSlope=1)
    yield stored("signed without rescale", pixels.astype(np.int16) - 2048, PixelRepresentation=1)
    yield stored("signed, unused bits", (pixels.astype(np.int16) - 2048) & 0x0FFF, PixelRepresentation=1)
    yield stored("MONOCHROME1", 4095 - pixels, PhotometricInterpretation="MONOCHROME1")
    yield stored("gain 8", pixels << 3, BitsStored=15, HighBit=14)
    yield stored("offset 100", pixels + 100, BitsStored=13, HighBit=12)
    yield stored("slope 0.25", RescaleSlope="0.25", RescaleIntercept="-7")
    yield stored("window", WindowCenter=2048, WindowWidth=4096)
    yield stored("exact window", WindowCenter=2048, WindowWidth=8192, VOILUTFunction="LINEAR_EXACT")
    yield stored("two windows", WindowCenter=[2048, 100], WindowWidth=[4096, 10])
    yield stored("VOI LUT", VOILUTSequence=lut(list(range(4096)), 0, 12))
    yield stored("modality LUT", ModalityLUTSequence=lut(list(range(0, 65536, 16)), 0, 16))
    yield stored("MONOCHROME1, VOI LUT", 4095 - pixels, PhotometricInterpretation="MONOCHROME1",
                 VOILUTSequence=lut(list(range(4096)), 0, 12))  # fmt: skip
    yield stored("padding", np.where(is_air, 4095, pixels).astype(np.uint16), PixelPaddingValue=4095)
    yield stored("padding of the air", PixelPaddingValue=0)
    for name in ("ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian", "RLELossless",
                 "JPEGLSLossless", "JPEG2000Lossless"):  # fmt: skip
        values = pixels.astype(">u2") if "Big" in name else pixels
        yield stored(name, values, getattr(uid, name))
    yield "JPEGLossless", plain, make_jpeg_lossless(write_dicom(folder / "jl.dcm", pixels, **TWELVE))
    for name, keyword, vr, value, has in (
        ("spacing with a decimal comma", "PixelSpacing", "DS", rb"0,28\0,28 ", {"PixelSpacing": [1, 1]}),
        ("window in brackets", "WindowCenter", "DS", b"[2048]", {"WindowCenter": 1, "WindowWidth": 4096}),
        ("padding of another VR", "PixelPaddingValue", "SS", b"\0\0", {"PixelPaddingValue": 0}),
        ("slope of another VR", "RescaleSlope", "LO", b"1 ", {"RescaleSlope": 1, "RescaleIntercept": 0}),
    ):
        _, _, path = stored(name, **has)
        yield name, plain, patched(path, keyword, vr, value)
    _, _, path = stored("bytes behind the pixels")
    whole = pydicom.dcmread(path)
    whole.PixelData += b"\0\1\2\3"
    whole.save_as(path)
    yield "bytes behind the pixels", plain, path
    PIL.Image.fromarray(pixels).save(folder / "a.png")
    yield "PNG of 16 bits", plain, folder / "a.png"
    PIL.Image.fromarray(pixels).save(folder / "a.tif")
    yield "TIFF of 16 bits", plain, folder / "a.tif"
    (folder / "a.pgm").write_bytes(b"P5 %d %d 65535\n" % pixels.shape[::-1] + pixels.astype(">u2").tobytes())
    yield "PGM of 16 bits", plain, folder / "a.pgm"
    eight = (pixels >> 4).astype(np.uint8)
    plain8 = write_dicom(folder / "plain8.dcm", eight)
    PIL.Image.fromarray(eight).save(folder / "b.png")
    yield "PNG of 8 bits", plain8, folder / "b.png"
    PIL.Image.fromarray(np.dstack([eight] * 3)).save(folder / "c.png")
    yield "PNG of three channels", plain8, folder / "c.png"
    PIL.Image.fromarray(np.dstack([eight] * 3 + [np.full_like(eight, 255)])).save(folder / "d.png")
    yield "PNG with alpha", plain8, folder / "d.png"
    yield "8 bits in 16", plain8, write_dicom(folder / "e.dcm", eight.astype(np.uint16), BitsStored=8, HighBit=7)


def _with(folder, garbage, syntax):
    """Pixels with unused bits, compressed as 16 bits, in a header that tells of 12."""
    from dicom_files import write_dicom

    path = write_dicom(folder / f"garbage-{syntax.name.replace(' ', '-')}.dcm".replace("/", "-"), garbage, syntax)
    header = pydicom.dcmread(path)
    header.BitsStored, header.HighBit = 12, 11
    header.save_as(path)
    return path


def laws(folder, path, box):
    """Name, file and box of the same mammogram, changed as it may be; and whether its hash must stay."""
    for name in ("RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "DeflatedExplicitVRLittleEndian"):
        changed = pydicom.dcmread(path)
        changed.decompress()
        syntax = getattr(uid, name)
        if syntax.is_encapsulated:
            changed.compress(syntax, generate_instance_uid=False)
        else:
            changed.file_meta.TransferSyntaxUID = syntax
        yield name, _saved(changed, folder / f"{name}.dcm"), box, True
    for element in pydicom.dcmread(path, stop_before_pixels=True):
        if element.keyword and element.keyword not in KEPT:
            changed = pydicom.dcmread(path)
            delattr(changed, element.keyword)
            yield f"without {element.keyword}", _saved(changed, folder / "without.dcm"), box, True
    values = pydicom.dcmread(path)
    values.decompress()
    pixels = values.pixel_array
    x0, y0, x1, y1 = box
    for name, other, moved in (
        ("100 rows of air more", np.vstack([np.full((100, pixels.shape[1]), pixels.min(), pixels.dtype), pixels]), 100),
        ("50 rows cut off", pixels[50:], -50),
        ("a marker in the air", _marked(pixels), 0),
    ):
        values.Rows, values.Columns, values.PixelData = *other.shape, other.tobytes()
        yield name, _saved(values, folder / "other.dcm"), (x0, y0 + moved, x1, y1 + moved), False


def _marked(pixels):
    """A bright square in the corner away from the chest wall."""
    marked = pixels.copy()
    marked[200:400, -400:-200] = pixels.max()
    return marked


def _saved(dataset, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quirks", action="store_true", help="the quirks alone, without the real files")
    asked = parser.parse_args()
    model = diagnet.load_model(engine="torch")
    policy = Policy(allow_unlike=True)
    rows = []

    def compare(name, before, after, must_have_hash):
        is_scored = before.malignancy is not None and after.malignancy is not None
        apart = abs(before.malignancy - after.malignancy) if is_scored else None
        has_hash = before.input_sha256 == after.input_sha256
        rows.append({
            "name": name, "apart": apart, "is_alike": is_scored and apart <= ALIKE, "has_hash": has_hash,
            "is_equal": bool(is_scored and apart == 0 and (has_hash or not must_have_hash)), "reason": after.reason,
        })  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        for name, plain, other in quirks(Path(folder)):
            (before,), (after,) = (model.predict(path, [BOX], policy) for path in (plain, other))
            compare(name, before, after, must_have_hash=True)
        n_quirks = len(rows)
        for file, box in MASSES.items():
            if not asked.quirks and (REAL / file).exists():
                (before,) = model.predict(REAL / file, [box], policy)
                for name, path, moved, must_have_hash in laws(Path(folder), REAL / file, box):
                    compare(f"{name}, {file}", before, model.predict(path, [moved], policy)[0], must_have_hash)
    parts = {"quirks": rows[:n_quirks], "laws": rows[n_quirks:]}
    found = {
        name: {
            "pairs": len(part),
            "alike": sum(row["is_alike"] for row in part),
            "equal": sum(row["is_equal"] for row in part),
            "not_equal": [row for row in part if not row["is_equal"]],
        }
        for name, part in parts.items()
    }
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, part in found.items():
        print(f"{name}: {part['pairs']} pairs, {part['alike']} alike, {part['equal']} equal")
        for row in part["not_equal"]:
            print(f"    {row['name']}: apart {row['apart']}, hash {row['has_hash']} {row['reason']}")


if __name__ == "__main__":
    main()
