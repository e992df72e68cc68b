"""Makes ``inpainting_fakes`` importable here: no folder of the repository is on ``sys.path``."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parent / "inpainting_fakes.py"

if "inpainting_fakes" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("inpainting_fakes", _PATH)
    sys.modules["inpainting_fakes"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["inpainting_fakes"])
