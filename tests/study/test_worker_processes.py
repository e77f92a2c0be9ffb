import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BEGIN = """
import os, time
from diagnet.study.worker_processes import worker_processes

if __name__ == "__main__":
    with worker_processes(1) as executor:
        print(executor.submit(os.getpid).result(), flush=True)
        executor.submit(time.sleep, 120).result()
"""


def is_alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only /proc tells which processes there are")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_with_the_study_that_is_killed(tmp_path, how):
    (tmp_path / "begin.py").write_text(BEGIN)
    study = subprocess.Popen([sys.executable, "-B", tmp_path / "begin.py"], stdout=subprocess.PIPE, text=True)
    worker = int(study.stdout.readline())
    assert is_alive(worker)
    study.send_signal(how)
    study.communicate(timeout=60)
    end = time.monotonic() + 60
    while is_alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(worker)
