"""A finished run, mammograms, marks and a DICOM node of our own, for the tests of the clinic's door."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, generate_uid

from diagnet.clinic.report import write_structured_report
from diagnet.data.box import Box
from diagnet.inference.assessment import Assessment
from dicom_files import write_dicom

BOX = (40.0, 60.0, 104.0, 116.0)
CANARY = "CANARYNAME"


def mammogram(path, seed=0, **elements):
    """A mammogram of 240 x 200 pixels: a bright half disk with a mass, on air."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:240, :200]
    breast = np.hypot(rows - 120, columns) < 150
    mass = np.exp(-(((rows - 88) / 20) ** 2 + ((columns - 72) / 22) ** 2))
    pixels = np.where(breast, 900 + 1500 * mass + rng.normal(0, 60, rows.shape), 0).clip(0, 4095).astype(np.uint16)
    study = generate_uid()
    standard = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": generate_uid(),
        "PatientName": f"{CANARY}^{seed}",
        "PatientID": f"{CANARY}-ID-{seed}",
        "PatientBirthDate": "19600102",
        "PatientSex": "F",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "StudyID": "7",
        "AccessionNumber": "ACC7",
        "ReferringPhysicianName": f"{CANARY}^Doctor",
        "StudyDescription": f"{CANARY} study",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        "PixelSpacing": [0.2, 0.2],
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "BitsStored": 12,
        "HighBit": 11,
    }
    write_dicom(path, pixels, **(standard | elements))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, that a value is not what the standard asks for
        dataset = dcmread(path)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path, enforce_file_format=True)
    return path


_TEXTS = """
    IssuerOfPatientID OtherPatientNames PatientBirthName PatientMotherBirthName PatientAddress
    PatientTelephoneNumbers PatientComments EthnicGroup Occupation AdditionalPatientHistory MedicalRecordLocator
    MilitaryRank BranchOfService CountryOfResidence RegionOfResidence PatientReligiousPreference AccessionNumber
    StudyID StudyDescription SeriesDescription ReferringPhysicianName PhysiciansOfRecord
    NameOfPhysiciansReadingStudy PerformingPhysicianName OperatorsName RequestingPhysician InstitutionName
    InstitutionAddress InstitutionalDepartmentName StationName Manufacturer ManufacturerModelName
    DeviceSerialNumber SoftwareVersions ProtocolName ImageComments AcquisitionComments DerivationDescription
    AdmittingDiagnosesDescription RequestedProcedureDescription PerformedProcedureStepDescription
    PerformedProcedureStepID ReasonForStudy ContentLabel DetectorID DetectorDescription RetrieveAETitle
    FilterMaterial ViewPosition PatientOrientation BodyPartExamined ImageLaterality PresentationLUTShape
    LossyImageCompression ClinicalTrialSubjectID DeidentificationMethod
"""


def canaries():
    """A canary in every text element that a mammogram's modules know and that is no code."""
    short = {"AE", "SH", "CS"}
    found = {}
    for keyword in _TEXTS.split():
        found[keyword] = CANARY if dictionary_VR(keyword) in short else f"{CANARY} {keyword}"
    return found


def assessed(box=BOX, decision="malignant", **changes):
    facts = {
        "image": Path("image.dcm"),
        "box": Box(*box),
        "malignancy": 0.8125,
        "raw_malignancy": 0.7,
        "threshold": 0.43,
        "decision": decision,
        "reason": "",
        "flags": (),
        "steps": ("decode: RLE Lossless", "voi: window"),
        "laterality": "L",
        "view": "CC",
        "spacing_mm": (0.2, 0.2),
        "input_sha256": "ab" * 32,
        "model_sha256": "cd" * 32,
        "latency_ms": 12.5,
    }
    return Assessment(**(facts | changes))


def marks(path, image, boxes=(BOX,)):
    """A reader's marks: a report with outlines; another model's, so that it is no result of ours."""
    found = [assessed(box, decision="refused", malignancy=None, model_sha256=generate_uid()) for box in boxes]
    write_structured_report(found, image, path)
    return path


def certificate(folder, name, issuer=None):
    """A self-made certificate for 127.0.0.1, signed by itself or by `issuer`."""
    key, cert, request = (folder / f"{name}.{suffix}" for suffix in ("key", "pem", "csr"))
    subject = ["-subj", f"/CN={name}"]
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key)]
    if issuer is None:
        subprocess.run([*new, "-x509", "-days", "2", "-out", str(cert), *subject], check=True, capture_output=True)
        return cert, key
    subprocess.run([*new, "-out", str(request), *subject], check=True, capture_output=True)
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", str(issuer[0]), "-CAkey", str(issuer[1]), "-CAcreateserial", "-extfile", str(folder / "san")]
    command = ["openssl", "x509", "-req", "-in", str(request), "-days", "2", "-out", str(cert), *signed]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Archive:
    """A DICOM node that takes objects, counts how often each came, and answers C-FIND."""

    def __init__(self, on_store=None, ssl_context=None, answers_find=True):
        from pynetdicom import AE, evt
        from pynetdicom.presentation import AllStoragePresentationContexts

        self.taken, self.datasets, self._lock, self.on_store = {}, {}, threading.Lock(), on_store
        self.entity = AE("ARCHIVE")
        self.entity.maximum_associations = 20
        self.entity.supported_contexts = AllStoragePresentationContexts
        if answers_find:
            self.entity.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")
        self.server = self.entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)],
            ssl_context=ssl_context,
        )
        self.port = self.server.server_address[1]
        self.address = f"127.0.0.1:{self.port}:ARCHIVE"

    def _store(self, event):
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        with self._lock:
            uid = str(event.request.AffectedSOPInstanceUID)
            self.taken[uid] = self.taken.get(uid, 0) + 1
            self.datasets[uid] = dataset
            number = sum(self.taken.values())
        if self.on_store:
            return self.on_store(number)
        return 0

    def _find(self, event):
        uid = str(event.identifier.SOPInstanceUID)
        if uid in self.taken:
            yield 0xFF00, event.identifier
        yield 0x0000, None

    def of_class(self, keyword):
        return [dataset for dataset in self.datasets.values() if dataset.SOPClassUID.keyword == keyword]

    def close(self):
        self.entity.shutdown()


def send(port, paths, title="DIAGNET", calling="MODALITY", tls_args=None):
    """C-STORE files over one association; their statuses, None where there was no answer."""
    from pynetdicom import AE

    from hostile_senders import ENDS

    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    entity = AE(calling)
    for sop_class, syntax in {(header.SOPClassUID, header.file_meta.TransferSyntaxUID) for header in headers}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate("127.0.0.1", port, ae_title=title, tls_args=tls_args, evt_handlers=ENDS)
    if not association.is_established:
        return []
    try:
        return [association.send_c_store(path).get("Status") for path in paths]
    finally:
        association.release()


class Listening:
    """`diagnet listen` as a process of its own, which may be killed and started again."""

    def __init__(self, run, folder, forward, *options):
        self.folder, self.port = folder, free_port()
        self.command = [
            *(sys.executable, "-m", "diagnet.cli", "listen", str(run), "--forward", forward),
            *("--port", str(self.port), "--queue", str(folder / "queue"), "--json", "--engine", "torch", *options),
        ]
        self.process, self.log = None, folder / "log.txt"

    def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.log.read_text().count("listening on") if self.log.exists() else 0
        with self.log.open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        wait_until(lambda: self.log.read_text().count("listening on") > before or self.process.poll() is not None, 90)
        # It may have been killed since, by a test that waits for its first deed.
        assert self.log.read_text().count("listening on") > before, self.log.read_text()
        return self

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                assert self.process.wait(60) == 0
            finally:
                self.process.kill()
                self.process.wait()  # or another test is blamed for it

    def events(self):
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines() if line.startswith("{")]

    def done(self):
        return [json.loads(path.read_text()) for path in sorted((self.folder / "queue" / "done").glob("[!.]*.json"))]


@contextmanager
def listening(*arguments):
    found = Listening(*arguments)
    try:
        yield found.start()
    finally:
        found.stop()


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def crash_at(monkeypatch, step, places):
    """End the block before or after one of the calls of some functions, each given as (owner, name)."""
    steps = iter(range(1000))

    def watched(function):
        def run(*arguments, **options):
            if next(steps) == step:
                raise Crash
            result = function(*arguments, **options)
            if next(steps) == step:
                raise Crash
            return result

        return run

    with monkeypatch.context() as patch, suppress(Crash):
        for owner, name in places:
            patch.setattr(owner, name, watched(getattr(owner, name)))
        yield


def wait_until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.05)


class Orthanc:
    """Debian's Orthanc with its DICOMweb plugin, on free loopback ports, with a storage folder of its own."""

    PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

    def __init__(self, folder, our_port):
        self.dicom_port, self.http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.address = f"127.0.0.1:{self.dicom_port}:ORTHANC"
        folder.mkdir(parents=True)
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "DicomModalities": {"diagnet": ["DIAGNET", "127.0.0.1", our_port]},
            "Plugins": [str(self.PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.log = (folder / "log.txt").open("w")
        self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=self.log, stderr=self.log)
        wait_until(self.answers, 30)

    def answers(self):
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def get(self, path, body=None):
        request = urllib.request.Request(self.url + path, data=body)  # noqa: S310 -- a URL of our own
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())

    def file(self, instance):
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=30) as answer:  # noqa: S310
            return answer.read()

    def instances(self):
        return {self.get(f"/instances/{each}/tags?simplify")["SOPInstanceUID"]: each for each in self.get("/instances")}

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
