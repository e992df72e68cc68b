"""Makes ``clip_fakes`` importable for the tests of this folder: no folder of the repository is on ``sys.path``."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parent / "clip_fakes.py"

if "clip_fakes" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("clip_fakes", _PATH)
    sys.modules["clip_fakes"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["clip_fakes"])
