"""Prepared folders: what goes in comes out, whole or not at all, and nothing edited passes."""

import errno
import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diagnet.data.manifest import read_manifest
from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import describe, is_prepared, read_prepared, write_prepared
from diagnet.data.region_facts import RegionFacts
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.data.surroundings import no_wide
from diagnet.errors import DataError, RunFolderError

SETTINGS = RoiSettings(size=16, padding_factor=1.2)


@pytest.fixture
def mass_set(tmp_path):
    """Six masses on three images of two patients."""
    rng = np.random.default_rng(0)
    masses = []
    for k in range(6):
        path = tmp_path / "source" / f"{k % 3}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (50, 60), dtype=np.uint8)).save(path)
        masses.append(
            Mass(
                path,
                (4.0 + k, 5.0, 20.25 + k, 30.0),
                ("benign", "malignant")[k % 2],
                f"secret-{k // 4}",
                laterality="L",
                view="CC",
                extra={"subtlety": str(k)},
            )
        )
    return MassSet(masses, source="a source", left_out={"label is empty": 2}, notes={"box was clipped": 1})


def test_what_goes_in_comes_out(mass_set, tmp_path):
    steps = []
    written = write_prepared(mass_set, tmp_path / "out", SETTINGS, workers=2, progress=lambda *step: steps.append(step))
    assert is_prepared(tmp_path / "out")
    assert not is_prepared(tmp_path)
    assert ("regions", 3, 3) in steps
    around, boxes = wide = no_wide(6, SETTINGS)
    facts = np.zeros((6, len(RegionFacts._fields)))
    rois = read_rois(mass_set.masses, SETTINGS, facts=facts, wide=wide)
    for path in (tmp_path / "source").iterdir():
        path.unlink()  # the images are not needed any more
    prepared = read_prepared(tmp_path / "out")
    assert prepared.sha256 == written.sha256
    assert prepared.settings == SETTINGS
    assert isinstance(prepared.images, np.memmap)
    assert np.array_equal(prepared.images, rois)
    assert np.array_equal(prepared.facts, facts, equal_nan=True)
    assert isinstance(prepared.surroundings[0], np.memmap)
    assert np.array_equal(prepared.surroundings[0], around)
    assert np.array_equal(prepared.surroundings[1], boxes, equal_nan=True)
    assert list(prepared.mass_set.masses) == list(mass_set.masses)
    assert replace(prepared.mass_set, masses=[]) == replace(mass_set, masses=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_region_of_one_grey_value_is_left_out_and_counted(mass_set, tmp_path):
    PIL.Image.new("L", (50, 60), 77).save(tmp_path / "source" / "0.png")
    prepared = write_prepared(mass_set, tmp_path / "out", SETTINGS)
    assert len(prepared.images) == 4
    assert prepared.mass_set.left_out == {"label is empty": 2, "region has one grey value": 2}
    assert (np.ptp(prepared.images, axis=(1, 2)) > 0).all()


def test_an_empty_folder_is_filled_and_a_full_one_is_not_touched(mass_set, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_prepared(mass_set, out, SETTINGS)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(RunFolderError, match=r"`--out` must be a new or an empty folder, got .* Fix: choose another"):
        write_prepared(mass_set, out, RoiSettings(size=8))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(RunFolderError, match="`--out` must be a new or an empty folder"):
        write_prepared(mass_set, out / "rois.npy", SETTINGS)


def test_broken_images_are_left_out_and_counted(mass_set, tmp_path):
    broken = mass_set.masses[1].image
    broken.write_bytes(broken.read_bytes()[:200])
    prepared = write_prepared(mass_set, tmp_path / "out", SETTINGS)
    assert [mass.extra["subtlety"] for mass in prepared.mass_set.masses] == ["0", "2", "3", "5"]
    assert prepared.mass_set.left_out == {"label is empty": 2, "image cannot be read": 2}
    assert np.array_equal(prepared.images, read_rois(prepared.mass_set.masses, SETTINGS))


def test_no_readable_image_is_an_error_that_leaves_nothing_and_names_nobody(mass_set, tmp_path):
    for path in (tmp_path / "source").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="`masses` must hold a mass whose image can be read, got none of 6") as caught:
        write_prepared(mass_set, tmp_path / "out", SETTINGS)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_leaves_nothing(mass_set, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunFolderError, match="must be writable, got: No space left on device"):
        write_prepared(mass_set, tmp_path / "out", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def cut_short(folder):
    array = folder / "rois.npy"
    array.write_bytes(array.read_bytes()[:-100])


def relabeled(folder):
    table = folder / "masses.csv"
    table.write_text(table.read_text().replace("benign", "malignant"))


def without_table(folder):
    (folder / "masses.csv").unlink()


def about_is_no_json(folder):
    (folder / "prepared.json").write_text("{")


def about_is_no_object(folder):
    (folder / "prepared.json").write_text("[]")


def about_lacks_settings(folder):
    about = json.loads((folder / "prepared.json").read_text())
    del about["roi"]
    (folder / "prepared.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    "damage", [cut_short, relabeled, without_table, about_is_no_json, about_is_no_object, about_lacks_settings]
)
def test_a_changed_folder_is_refused_in_one_line(mass_set, tmp_path, damage):
    write_prepared(mass_set, tmp_path / "out", SETTINGS)
    damage(tmp_path / "out")
    with pytest.raises(DataError, match="must be as `diagnet prepare` wrote it, got a missing or changed") as caught:
        read_prepared(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_other_versions_and_other_folders_are_refused(mass_set, tmp_path):
    write_prepared(mass_set, tmp_path / "out", SETTINGS)
    about = tmp_path / "out" / "prepared.json"
    about.write_text(about.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(DataError, match=r"`schema_version` must be 1, got 99 .*prepare the masses again"):
        read_prepared(tmp_path / "out")
    with pytest.raises(DataError, match=r"`data` must be a folder that `diagnet prepare` wrote, got .*source"):
        read_prepared(tmp_path / "source")


def test_the_description_counts_and_names_nobody(mass_set):
    assert describe(mass_set) == [
        "6 masses (3 benign, 3 malignant) in 3 images of 2 patients",
        "left out: 2 (label is empty)",
        "noticed: 1 (box was clipped)",
    ]


def test_real_masses(shared_masses, tmp_path):
    found = read_manifest(shared_masses / "mammograms.csv")
    some = replace(found, masses=found.masses[:12])
    prepared = write_prepared(some, tmp_path / "out", RoiSettings(square=True))
    assert prepared.images.shape == (12, 64, 64)
    assert list(prepared.mass_set.masses) == list(some.masses)
    assert np.all(prepared.images.std(axis=(1, 2)) > 0.01)


def test_regions_of_another_chain_are_refused(mass_set, tmp_path):
    write_prepared(mass_set, tmp_path / "data", SETTINGS)
    about = tmp_path / "data" / "prepared.json"
    content = json.loads(about.read_text())
    assert content["preprocessing"]["roi"] == content["roi"]
    before = {name: value for name, value in content.items() if name != "preprocessing"}
    about.write_text(json.dumps(before))
    assert read_prepared(tmp_path / "data").settings == SETTINGS  # one from before it was kept
    content["preprocessing"]["intensity"] = 2
    about.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"prepared by a version of diagnet that reads images as this one does.*Fix: "):
        read_prepared(tmp_path / "data")


words = st.text(min_size=1).filter(lambda text: text == text.strip())


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each writes its own folder
@given(st.lists(words, min_size=2, max_size=2, unique=True), words, st.text(), words)
@example(["a\rb", "ss"], "P\r\n1", "sour\rce", "n\ro;te")
@example(["Cyst", "cyst"], "\x00", "\u2028\x7f\U0001f600", "\x85.")
def test_any_text_comes_out_as_it_went_in(mass_set, tmp_path_factory, classes, patient, source, column):
    masses = [
        replace(mass, label=classes[k % 2], patient_id=f"{patient}{k}", extra={f"*{column}": patient})
        for k, mass in enumerate(mass_set.masses)
    ]
    told = {"left_out": {source: 1}, "notes": {patient: 2}}
    given_set = MassSet(masses, tuple(classes), source, **told)
    out = tmp_path_factory.mktemp("prepared") / "out"
    write_prepared(given_set, out, RoiSettings(size=8), workers=1)
    assert read_prepared(out).mass_set == given_set


def test_what_is_no_text_is_told_before_an_image_is_read(mass_set, tmp_path):
    nameless = replace(mass_set, masses=[replace(mass_set.masses[0], patient_id="a\udcff")])
    with pytest.raises(DataError, match=r"`text` must be text that UTF-8 can hold, got the lone surrogate U\+DCFF"):
        write_prepared(nameless, tmp_path / "out", SETTINGS, progress=lambda *_: pytest.fail("an image was read"))
    assert not (tmp_path / "out").exists()


def test_a_folder_from_before_facts_were_kept_has_none(mass_set, tmp_path):
    write_prepared(mass_set, tmp_path / "out", SETTINGS)
    about = json.loads((tmp_path / "out" / "prepared.json").read_text())
    names = about.pop("facts")
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(about))
    assert read_prepared(tmp_path / "out").facts is None
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(about | {"facts": names[1:]}))  # of another version
    assert read_prepared(tmp_path / "out").facts is None
