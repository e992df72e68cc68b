"""Makes ``one_node`` importable for the tests of this folder: no folder of the repository is on ``sys.path``."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parent / "one_node.py"
if "one_node" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("one_node", _PATH)
    sys.modules["one_node"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["one_node"])
