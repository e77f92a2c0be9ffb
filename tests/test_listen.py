import pytest

pytest.importorskip(
    "highdicom", reason='the extra is missing: not run. Fix: pip install "diagnet[pacs]"'
)
pytest.importorskip(
    "pynetdicom", reason='the extra is missing: not run. Fix: pip install "diagnet[pacs]"'
)

from clinic_parts import Archive, listening, mammogram, marks, send, wait_until


@pytest.fixture
def archive():
    found = Archive()
    yield found
    found.close()


def test_an_image_and_its_marks_come_back_scored(finished_run, tmp_path, archive):
    image = mammogram(tmp_path / "image.dcm")
    with listening(finished_run, tmp_path / "listen", archive.address) as node:
        assert send(node.port, [image, marks(tmp_path / "marks.dcm", image)]) == [0, 0]
        wait_until(lambda: len(node.done()) == 1)
    assert set(archive.taken.values()) == {1}
    assert len(archive.taken) == 3
    (found,) = node.done()
    print(found, node.log.read_text())
