"""The plan of the house: which room may know which, where the config stops, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffmae_video"

# room (a folder or a module of the package): what it may import of ours, besides itself
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "data": set(),
    "diffusion": set(),
    "models": {"diffusion"},
    "baselines": set(),
    "zip_files": set(),
    "conversion": {"models", "zip_files"},
    "benchmarking": set(),
    "mask_input": {"models", "data"},
    "quality": set(),
    "perceptual": {"zip_files"},
    "clip_features": set(),
    "inpainting": {"models", "diffusion", "mask_input", "baselines"},
    "visualize": {"data.writing"},
    "features": {"models", "data"},
    "engine": {
        "models",
        "diffusion",
        "inpainting",
        "visualize",
        "data",
        "quality",
        "perceptual",
        "benchmarking.format_table",
        "zip_files",
    },
    "build": {
        "config",
        "data",
        "diffusion",
        "models",
        "inpainting",
        "visualize",
        "engine",
        "baselines",
        "mask_input",
        "perceptual",
        "clip_features",
    },
    "export": {"models", "engine.errors"},
    "hub": {"build"},
    "__init__": {"build"},
}
READS_CONFIG = {"config", "build"}


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path) -> str:
    """``diffmae_video/engine/trainer.py`` -> ``engine``; ``diffmae_video/build/data.py`` -> ``build``."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of every import of a file, those inside functions and ``TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            if node.level:  # relative: from . or ..
                module = [*path.relative_to(ROOT).parts[: -node.level], *module]
            for alias in node.names:  # "from a import b": b may be a module, so the name goes on
                yield node.lineno, ".".join([*module, alias.name])


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name inside the package) of every import of ours."""
    for line, name in imported_modules(path):
        if name.split(".")[0] == PACKAGE.name:
            yield line, name.removeprefix(PACKAGE.name).removeprefix(".")


def is_allowed(name: str, allowed: set[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in allowed)


def test_every_room_is_in_the_plan():
    assert {room_of(path) for path in sources(PACKAGE)} <= set(ALLOWED), "a new room: say above what it may import"


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room_of(path)} may not import {name}"
        for path in sources(PACKAGE)
        for line, name in imported_rooms(path)
        if not is_allowed(name, ALLOWED[room_of(path)] | {room_of(path)})
    ]
    assert not wrong, "\n".join(wrong)


def test_the_plan_has_no_cycle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {room for room in set(ALLOWED) - done if {name.split(".")[0] for name in ALLOWED[room]} <= done}
        assert ready, f"these rooms import each other in a circle: {set(ALLOWED) - done}"
        done |= ready


def test_models_use_the_noise_schedule_but_never_the_sampler():
    names = {name for path in sources(PACKAGE / "models") for _, name in imported_rooms(path)}
    assert not [name for name in names if name.startswith("diffusion") and "sampl" in name.lower()]


def test_package_imports_no_folder_of_scripts():
    """``datasets`` would be the PyPI package of that name, or our scripts, depending on the current folder."""
    scripts = {"tools", "datasets", "slurm", "tests", "configs"}
    wrong = [
        (path, name) for path in sources(PACKAGE) for _, name in imported_modules(path) if name.split(".")[0] in scripts
    ]
    assert not wrong


def test_config_stops_at_the_door():
    """Outside build/ and the tools no argument is called ``cfg``, and nothing is typed as a CfgNode."""
    wrong = []
    for path in sources(PACKAGE):
        if room_of(path) in READS_CONFIG:
            continue
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.arg) and node.arg in ("cfg", "config_node"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: argument {node.arg}")
            if isinstance(node, ast.Name) and node.id in ("cfg", "CfgNode", "get_cfg"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.id}")
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for line, name in imported_modules(path)
            if name.startswith(("fvcore.common.config", "yacs", "diffmae_video.config"))
        ]
    assert not wrong, "\n".join(wrong)


def test_folders_of_scripts_are_no_packages():
    for folder in ("datasets", "tools", "slurm"):
        assert not list((ROOT / folder).rglob("__init__.py")), f"{folder}/ must not be importable as a package"


def test_every_room_is_a_package():
    for folder in {path.parent for path in sources(PACKAGE)}:
        assert (folder / "__init__.py").exists(), f"{folder} would be left out of the installed package"


# ------------------------------------------------------------------------------------------------ what an import does


def run_python(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


LOADED = "import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"


def test_import_of_the_package_loads_nothing_heavy(tmp_path):
    loaded = set(run_python(LOADED.format(module="diffmae_video"), tmp_path).split())
    assert "diffmae_video" in loaded
    heavy = {"torch", "numpy", "decord", "av", "tensorboard", "transformers", "pytorchvideo", "matplotlib", "cv2"}
    assert not loaded & heavy


def test_import_of_everything_loads_no_optional_package(tmp_path):
    """What is needed by one backend, one tool or one test is imported where it is used."""
    loaded = set(run_python(LOADED.format(module="diffmae_video.build"), tmp_path).split())
    optional = {"decord", "tensorboard", "transformers", "diffusers", "torchvision", "matplotlib", "cv2", "skimage"}
    optional |= {"onnx", "onnxscript", "onnxruntime", "huggingface_hub", "wandb"}
    assert "torch" in loaded and not loaded & optional


def test_installed_package_does_not_put_this_folder_on_the_path(tmp_path):
    """Neither root/datasets nor root/tools can be imported from elsewhere: only diffmae_video is installed."""
    code = (
        "import sys, importlib.util, diffmae_video\n"
        "print(*sys.path, sep='\\n')\n"
        "for name in ('datasets', 'tools', 'slurm', 'tests'):\n"
        "    spec = importlib.util.find_spec(name)\n"
        "    for place in (spec.submodule_search_locations or [spec.origin]) if spec else []:\n"
        "        print(place)\n"
    )
    lines = run_python(code, tmp_path).splitlines()
    inside = [
        line for line in lines if line and Path(line).resolve() in (ROOT, *(ROOT / n for n in ("datasets", "tools")))
    ]
    assert not inside, inside


def test_transformers_imports_beside_our_datasets_folder():
    """transformers probes for the PyPI package ``datasets``; from the root it finds our folder of that name."""
    pytest.importorskip("transformers")
    code = "from transformers import VideoMAEConfig, VideoMAEForPreTraining; print('ok')"
    assert run_python(code, ROOT).strip() == "ok"
