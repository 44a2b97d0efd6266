"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

CODE = """
import numpy as np
from open4m.train.memory import keep_freed_memory

def pages():
    return int(open("/proc/self/statm").read().split()[0])

def kept():
    before = pages()
    block = np.ones(1 << 25)  # 256 MB
    del block
    return pages() - before

print(kept())
assert keep_freed_memory()
print(kept())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is that of Linux's C library")
def test_a_freed_block_stays_with_the_process():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 1 << 15
    # Of 2^16 pages of 4 kB: what was free before is used first, and Linux's count is some thousand pages behind.
    assert after >= 3 << 14
