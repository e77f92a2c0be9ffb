"""Small DICOM files with any elements, for the tests."""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid


def write_dicom(path: Path, pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> Path:
    """Write a mammogram of 16 bits, or 8 for uint8 pixels; elements come in as they are, None leaves one out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    order = {"is_little_endian": syntax.is_little_endian}
    dataset = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=meta, **order)
    bits = pixels.dtype.itemsize * 8
    standard = {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, that a value is not what the standard asks for
        for keyword, value in (standard | elements).items():
            if value is not None:
                setattr(dataset, keyword, value)
        if syntax.is_encapsulated:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    return path


def lut(table: list[int], first: int, bits: int) -> list[Dataset]:
    """Return a LUT sequence of one item."""
    item = Dataset()
    item.LUTDescriptor = [len(table), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = table
    item["LUTData"].VR = "US"
    return [item]


def make_jpeg_lossless(path: Path) -> Path:
    """Compress an uncompressed file in place as JPEG Lossless, which pydicom cannot write; needs the extra `dicom`."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    return path


def drawn_breast(side: str = "L", size: tuple[int, int] = (160, 128)) -> np.ndarray:
    """Draw a breast (12 bits, air 0) with a bright mass at (20..60, 60..100), mirrored for the right side."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    skin = np.hypot(columns / (0.75 * width), (rows - height / 2) / (0.45 * height))
    tissue = (1000 + 200 * np.sin(rows / 5) * np.cos(columns / 7)) * np.sqrt(np.clip((1.02 - skin) / 0.2, 0, 1))
    mass = 1500 * np.exp(-((columns - 40) ** 2 + (rows - 80) ** 2) / 150)
    pixels = np.where(skin < 1, tissue + mass, 0).astype(np.uint16)
    return np.ascontiguousarray(pixels if side == "L" else pixels[:, ::-1])


def patched(path: Path, keyword: str, vr: str, value: bytes) -> Path:
    """Give an element of a file in explicit VR little endian any bytes, whatever pydicom thinks of them."""
    whole, tag = path.read_bytes(), Tag(tag_for_keyword(keyword) or 0)
    place = whole.index(struct.pack("<HH", tag.group, tag.element))
    is_long = whole[place + 4 : place + 6] in (b"OB", b"OW", b"SQ", b"UN")
    head = 12 if is_long else 8
    (length,) = struct.unpack_from("<I" if is_long else "<H", whole, place + head - (4 if is_long else 2))
    written = struct.pack("<HH", tag.group, tag.element) + vr.encode()
    written += struct.pack("<HI", 0, len(value)) if vr in ("OB", "OW", "SQ", "UN") else struct.pack("<H", len(value))
    path.write_bytes(whole[:place] + written + value + whole[place + head + length :])
    return path
