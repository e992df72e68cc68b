"""What commands and imports load, in fresh processes: a library that something does not need costs it no time.

Nothing here measures time; ``tools/benchmark.py startup`` does.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINING = {"torch", "av", "decord", "torchcodec", "tensorboard", "PIL", "rich", "safetensors", "pytorchvideo"}
OPTIONAL = {"matplotlib", "transformers", "diffusers", "wandb", "submitit", "gradio", "cv2", "skimage", "sklearn"}
OPTIONAL |= {"onnx", "onnxscript", "onnxruntime", "huggingface_hub", "webdataset", "torchvision"}

# Runs the script argv[2] with the arguments that follow and writes the names of all modules into the file argv[1].
LISTING = """
import atexit, json, os, runpy, sys
listing, script = sys.argv[1:3]
sys.argv[:3] = [script]
sys.path[0] = os.path.dirname(script)  # as for any script
parent = os.getpid()

def write():
    if os.getpid() == parent:
        with open(listing, "w") as file:
            json.dump(sorted(sys.modules), file)

atexit.register(write)
runpy.run_path(script, run_name="__main__")
"""


def modules_of_a_script(listing: Path, script: str, *arguments: object, code: int = 0) -> set[str]:
    """What is loaded when ``script`` (relative to the root) ends, top-level names and dotted ones."""
    command = [sys.executable, "-c", LISTING, str(listing), str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return set(json.loads(listing.read_text()))


def modules_of_code(code: str, folder: Path) -> set[str]:
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


# ----------------------------------------------------------------------------------------------------------- imports


@pytest.mark.parametrize(
    "code",
    [
        "import diffmae_video.config",
        "from diffmae_video.config import load_config; load_config(['configs/demo/pretrain.yaml'], ['SEED', '3'])",
        "import diffmae_video, diffmae_video.data",
        "from diffmae_video.data import read_manifest",
        "from diffmae_video.visualize import Panel, line_plot, schedule_curves, contact_sheet",
        "from diffmae_video.benchmarking import format_table, write_report, Spread",
    ],
)
def test_what_computes_nothing_loads_no_torch(code):
    loaded = modules_of_code(code, ROOT)
    assert not loaded & ((TRAINING | OPTIONAL) - {"PIL"})


def test_every_public_name_of_a_room_that_imports_late_is_there(tmp_path):
    for room in ("data", "visualize"):
        module = importlib.import_module(f"diffmae_video.{room}")
        assert sorted(module._MODULES) == sorted(module.__all__) == sorted(dir(module))
        for name in module.__all__:
            assert getattr(module, name) is not None
        with pytest.raises(AttributeError, match=f"diffmae_video.{room}.* has no attribute 'nothing'"):
            module.nothing  # noqa: B018 - asking for it is what is tested
    loaded = modules_of_code("from diffmae_video.visualize import line_plot", tmp_path)
    assert "diffmae_video.visualize.curves" in loaded and "diffmae_video.visualize.trajectory" not in loaded


# ---------------------------------------------------------------------------------------------------------- commands

STARTED_BY_TOOLS = {"scaling_worker.py", "startup_run.py"}
TOOLS = sorted(
    f"{path.parent.name}/{path.name}"
    for folder in ("tools", "slurm")
    for path in (ROOT / folder).glob("*.py")
    if path.name not in STARTED_BY_TOOLS and '__name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_and_a_wrong_option_need_no_torch(tool, tmp_path):
    heavy = (TRAINING | OPTIONAL) - ({"PIL"} if tool == "tools/serve_demo.py" else set())
    assert not modules_of_a_script(tmp_path / "help.json", tool, "--help") & heavy
    assert not modules_of_a_script(tmp_path / "wrong.json", tool, "--frobnicate", code=2) & heavy


def test_choices_of_the_command_lines_are_those_of_the_package(monkeypatch):
    """Copied, because the modules that have them import torch."""
    from diffmae_video import conversion, diffusion, export, features, inpainting
    from diffmae_video.data import sampling
    from diffmae_video.engine.weights_file import SUFFIX

    monkeypatch.syspath_prepend(ROOT / "tools")
    import convert_options
    import export_options
    import extract_options
    import inpaint_options
    import visualize_options

    assert (inpaint_options.SAMPLERS, inpaint_options.SPACINGS) == (diffusion.SAMPLERS, diffusion.SPACINGS)
    assert (inpaint_options.FITS, inpaint_options.OVERLAPS) == (inpainting.FITS, inpainting.OVERLAPS)
    assert (visualize_options.SCHEDULES, visualize_options.FITS) == (diffusion.SCHEDULES, features.FITS)
    assert (extract_options.OUTPUTS, extract_options.PRECISIONS) == (features.OUTPUTS, features.PRECISIONS)
    assert (extract_options.FITS, extract_options.SAMPLINGS) == (features.FITS, sampling.SAMPLINGS)
    assert convert_options.FAMILIES == conversion.FAMILIES
    texts = [Path(module.__file__).read_text() for module in (export_options, convert_options)]
    assert export.ONNX_FILE in texts[0] and export.PROGRAM_FILE in texts[0] and f"file {SUFFIX};" in texts[1]


def test_a_wrong_key_and_the_resolved_configuration_need_no_torch(tmp_path):
    cfg = ("tools/run_net.py", "--cfg", ROOT / "configs/demo/pretrain.yaml")
    for arguments, code in ((("SOLVER.BACH_SIZE", 3), 2), (("SEED", "many"), 2), (("--print-config",), 0)):
        loaded = modules_of_a_script(tmp_path / "modules.json", *cfg, *arguments, code=code)
        assert "diffmae_video.config" in loaded and not loaded & (TRAINING | OPTIONAL)


def test_the_table_of_runs_needs_no_torch(tmp_path):
    line = {"step": 1, "clips": 8, "epoch": 1.0, "loss": 0.5, "wall_seconds": 3.0, "clips_per_second": 2.0}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "step": 2}) + "\n")
    arguments = ("tools/plot_run.py", tmp_path / "run", "--output", tmp_path / "plot.png")
    assert not modules_of_a_script(tmp_path / "modules.json", *arguments) & {"torch", "rich", "tensorboard"}
    assert (tmp_path / "plot.png").exists()


COLLECTOR = f"""
import gc, sys, types
sys.path.insert(0, {str(ROOT / "tools")!r})
import run_net

with run_net.imports_for_good():
    assert not gc.isenabled()
    import yaml
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > 1000

try:
    with run_net.imports_for_good():
        raise ImportError
except ImportError:
    assert gc.isenabled() and gc.get_freeze_count() <= frozen, "what is half imported may become garbage"

sys.modules["diffmae_video.build"] = types.ModuleType("build")  # as from an earlier run
with run_net.imports_for_good():
    assert gc.isenabled()
assert gc.get_freeze_count() <= frozen
"""


def test_the_garbage_collector_waits_for_the_first_imports_alone(tmp_path):
    modules_of_code(COLLECTOR, tmp_path)


# -------------------------------------------------------------------------------------------------------------- a run

TINY = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
SOLVER: {BATCH_SIZE: 2, MAX_STEPS: 1}
TRAIN: {TENSORBOARD: False, VISUALIZE_PERIOD: 0}
DEVICE: cpu
"""


def test_pre_training_loads_only_what_it_uses(sample_videos, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    keys = ("DATA.PATH_TO_DATA_DIR", sample_videos, "OUTPUT_DIR", tmp_path / "run")
    loaded = modules_of_a_script(tmp_path / "modules.json", "tools/run_net.py", "--cfg", tmp_path / "tiny.yaml", *keys)
    assert (tmp_path / "run" / "log.jsonl").exists() and "torch" in loaded
    assert not loaded & (OPTIONAL | {"tensorboard", "rich", "torch.utils.tensorboard"})
