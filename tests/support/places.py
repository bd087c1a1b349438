"""Where the project lies, for tests that start it or read its files."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"  # the publishers' datasets and tokenizers, where somebody has put them
IMPORTS = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "support")]
)  # PYTHONPATH of a process that imports as tests do
