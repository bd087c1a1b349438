"""Runs a command on the emulated device: `python -m tests.cuda_emulation.run python train.py --device cuda …`."""

import os
import sys

from tests.cuda_emulation.home import environment

if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("error: which command? python -m tests.cuda_emulation.run COMMAND …")
    variables = environment()
    os.execvpe(sys.argv[1], sys.argv[1:], variables)
