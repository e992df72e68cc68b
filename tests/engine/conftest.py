"""Makes the helpers of these tests importable for the tests of this folder: no folder of the repository is
on ``sys.path``."""

import importlib.util
import sys
from pathlib import Path

for _name in ("engine_fakes", "wrapped_runs", "saving_processes"):
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).parent / f"{_name}.py")
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])
