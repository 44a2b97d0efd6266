"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

CODE = """
import torch
from open4m.train.memory import keep_freed_memory

def pages():
    return int(open("/proc/self/statm").read().split()[0])

KEEP
torch.ones(1 << 20)  # starts threads, which have memory of their own
before = pages()
block = torch.ones(1 << 26)  # 256 MB
del block
print(pages() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library's setting is that of Linux")
def test_a_freed_block_stays_with_the_process():
    def kept(call):
        code = CODE.replace("KEEP", call)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert kept("assert keep_freed_memory()") >= 15 << 12  # of 2^16 pages of 4 kB: what was free before is used first
    assert kept("") < 1 << 15
