"""The import of Jittor with the real wheels and no driver: all is compiled, linked and loaded, up to the driver itself.

Compiles Jittor's core with nvcc 13, which takes minutes.
"""

import os
import subprocess
import sys

import pytest
from places import ROOT

from gpt2_jittor.runtime.cuda import driver, parts

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not parts.wheels_nvcc(), reason="pip install -r requirements-cuda.txt"),
    pytest.mark.skipif(driver.ask().release != (0, 0), reason="there is a driver"),
]
IMPORT = """
from gpt2_jittor.runtime.cuda import driver
from gpt2_jittor.runtime.cuda.driver import Device, Driver
driver.ask = lambda: Driver((13, 0), (Device("NVIDIA H100", 80_000_000_000, (9, 0)),))
from gpt2_jittor.runtime.backend import jt
"""


def test_it_ends_only_at_the_missing_driver(tmp_path):
    variables = {name: value for name, value in os.environ.items() if name not in ("nvcc_path", "LD_LIBRARY_PATH")}
    variables |= {"HOME": str(tmp_path), "cuda_archs": "90"}
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    print(done.stderr)
    assert done.returncode != 0 and "cudaErrorInsufficientDriver" in done.stderr
    assert any(path.name.startswith("jittor_core.") for path in tmp_path.rglob("cu13*/*.so"))
