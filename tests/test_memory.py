import platform
import subprocess
import sys

import pytest

FREES_AND_TAKES = """
import resource, torch
from diagnet.memory import keep_freed_memory
assert keep_freed_memory()
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no mallopt")
def test_freed_memory_is_used_again():
    found = subprocess.run([sys.executable, "-c", FREES_AND_TAKES], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 20 * 2**24 * 4 / 4096  # pages of 20 such arrays; 40 where each is handed back
