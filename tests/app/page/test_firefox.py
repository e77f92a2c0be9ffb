"""The page in Debian's Firefox, driven by Puppeteer (WebDriver BiDi): Playwright would need a Firefox of its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_server import FakeServer

HERE = Path(__file__).parent
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
LIBRARY = HERE.parents[2] / ".venv" / "axe" / "node_modules" / "puppeteer-core"


@pytest.mark.skipif(FIREFOX is None, reason="no Firefox (apt-get install firefox-esr): the page was not tried in it")
@pytest.mark.skipif(shutil.which("node") is None or not LIBRARY.is_dir(), reason="no puppeteer-core: Firefox not tried")
def test_a_mass_is_marked_scored_and_hung_in_firefox(server: FakeServer):
    main = LIBRARY / json.loads((LIBRARY / "package.json").read_text())["main"].removeprefix("./")
    command = ["node", str(HERE / "firefox.mjs"), str(main), "firefox", FIREFOX, server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert not found["faults"]
    assert found["version"].startswith("firefox/")
    assert found["dragged"] == pytest.approx([80, 80], abs=2)
    assert "Malignant" in found["said"]
    assert "RESEARCH USE ONLY" in found["said"]
    assert found["clicked"] == 1
    assert (found["background"], found["overflow"]) == ("rgb(11, 14, 17)", 0)
    assert found["scrollbar"].endswith("rgb(18, 23, 28)")  # no brighter than the room: Firefox's own is white
