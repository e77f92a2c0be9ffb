"""The round trip with real parts: storescu -> Orthanc -> diagnet listen -> a report back in Orthanc."""

import json
import shutil
import subprocess
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")
pytest.importorskip("pynetdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

import highdicom
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

from clinic_parts import BOX, Listening, Orthanc, mammogram, marks, wait_until
from diagnet.cli import main
from diagnet.inference.assessment import assess
from diagnet.inference.model import load_model
from hostile_senders import ENDS

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(params=["C-STORE", "STOW-RS"])
def archive(request, tmp_path, finished_run):
    """Orthanc, and `diagnet listen` that sends results back to it."""
    for tool, package in (("Orthanc", "orthanc"), ("dcmdump", "dcmtk")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not there: the round trip was not run. Fix: apt-get install {package}")
    if not Orthanc.PLUGIN.exists():
        pytest.skip("Orthanc's plugin is not there: not run. Fix: apt-get install orthanc-dicomweb")
    node = Listening(finished_run, tmp_path / "listen", "")
    found = Orthanc(tmp_path / "orthanc", node.port)
    try:
        forward = found.address if request.param == "C-STORE" else f"{found.url}/dicom-web"
        node.command[node.command.index("--forward") + 1] = forward
        node.command += ["--allow", "ORTHANC", "--segmentation", *(["--pdf"] if find_spec("matplotlib") else [])]
        node.start()
        yield found, node
    finally:
        node.stop()
        found.close()


def find(port, level, **keys):
    entity = AE("DIAGNET")
    entity.add_requested_context(FIND)
    association = entity.associate("127.0.0.1", port, ae_title="ORTHANC", evt_handlers=ENDS)
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    found = [dataset for _, dataset in association.send_c_find(query, FIND) if dataset is not None]
    association.release()
    return found


def test_a_marked_mammogram_comes_back_with_a_report(
    archive, tmp_path, finished_run, shared_or_phantom, capsys, monkeypatch
):
    orthanc, node = archive
    image, box = shared_or_phantom
    paths = [image, marks(tmp_path / "marks.dcm", image, [box])]
    target = ["-aec", "ORTHANC", "127.0.0.1", str(orthanc.dicom_port)]
    # Where a virtual environment is active, `storescu` alone would be pynetdicom's.
    storescu = str(Path(shutil.which("dcmdump") or "").with_name("storescu"))
    subprocess.run([storescu, "-xr" if "cbis" in str(image) else "-xe", *target, str(paths[0])], check=True)
    subprocess.run([storescu, *target, str(paths[1])], check=True)
    sent = orthanc.instances()
    assert len(sent) == 2
    for each in sent.values():
        orthanc.get("/modalities/diagnet/store", each.encode())
    wait_until(lambda: len(node.done()) == 1)
    assert len(orthanc.instances()) == (7 if find_spec("matplotlib") else 6)
    results = {}
    for each in orthanc.instances().values():
        (tmp_path / each).write_bytes(orthanc.file(each))
        results[dcmread(tmp_path / each, stop_before_pixels=True).SOPClassUID.keyword] = tmp_path / each

    study = str(dcmread(image, stop_before_pixels=True).StudyInstanceUID)
    series = find(
        orthanc.dicom_port, "SERIES", StudyInstanceUID=study, Modality="", SeriesInstanceUID="", SeriesDescription=""
    )
    ours = [each for each in series if "RESEARCH USE ONLY" in each.SeriesDescription and "SR" in each.Modality]
    uid_of_marks = dcmread(paths[1]).SeriesInstanceUID
    (ours,) = [each for each in ours if each.SeriesInstanceUID != uid_of_marks]
    client = DICOMwebClient(f"{orthanc.url}/dicom-web")
    (on_web,) = client.search_for_instances(study, ours.SeriesInstanceUID)
    uid = on_web["00080018"]["Value"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        retrieved = client.retrieve_instance(study, ours.SeriesInstanceUID, uid)
        retrieved.save_as(tmp_path / "report.dcm", enforce_file_format=True)
        report = highdicom.sr.srread(tmp_path / "report.dcm")
    mask = dcmread(results["SegmentationStorage"]).pixel_array
    x0, y0, x1, y1 = map(int, box)
    assert mask.sum() == mask[y0:y1, x0:x1].sum() == (x1 - x0) * (y1 - y0)
    segmentation = highdicom.seg.segread(results["SegmentationStorage"])
    assert segmentation.get_source_image_uids()[0][2] == dcmread(image, stop_before_pixels=True).SOPInstanceUID
    assert segmentation.SOPInstanceUID in {entry[2] for entry in report.get_evidence()}
    if find_spec("matplotlib"):
        pdf = dcmread(results["EncapsulatedPDFStorage"])
        assert pdf.StudyInstanceUID == study
        assert pdf.EncapsulatedDocument[: pdf.EncapsulatedDocumentLength].endswith(b"%%EOF\n")
    for path in (results["SegmentationStorage"], results.get("EncapsulatedPDFStorage")):
        if path and shutil.which("dciodvfy"):
            checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60)
            assert "Error" not in checked.stdout + checked.stderr
    (group,) = report.content.get_planar_roi_measurement_groups()
    (probability,) = group.get_measurements()
    (expected,) = assess(load_model(finished_run, engine="torch"), image, [box])
    assert probability.value == pytest.approx(100 * expected.malignancy, abs=1e-9)
    assert node.done()[0]["masses"][0]["malignancy"] == expected.malignancy
    command = ["diagnet", "predict", str(finished_run), str(image), "--marks", str(paths[1]), "--json"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="0"):
        main()
    (predicted,) = json.loads(capsys.readouterr().out)["assessments"]
    assert predicted["malignancy"] == expected.malignancy


@pytest.fixture
def shared_or_phantom(request, tmp_path):
    """A real mammogram for one way of sending, where it is there; a synthetic one else."""
    real = Path(__file__).resolve().parents[3] / "shared/data/cbis-ddsm/dicom/mammogram_P_00173_L_CC.dcm"
    if real.exists() and request.node.callspec.params["archive"] == "C-STORE":
        return real, (928.0, 2304.0, 1239.0, 2575.0)
    return mammogram(tmp_path / "image.dcm"), BOX
