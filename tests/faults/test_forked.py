"""A model that was used works in forked processes too, which have none of the threads that it used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENE = Path(__file__).parents[2] / "docs/images/scene.png"
CODE = f"""
import multiprocessing

from open4m import FourM

def depth(seed):
    return model.generate({str(SCENE)!r}, ["depth"], steps=1, seed=seed)["depth"].shape

model = FourM.from_pretrained("scenes")
expected = depth(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(depth, [0, 1]).get(timeout=120) == [expected, expected]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked on this system")
def test_a_model_is_used_before_and_after_a_fork():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
