"""docs/methods.md points at code, keys and configs that exist: links begin and end where the function does."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from diffmae_video.config import get_cfg, load_config
from diffmae_video.config.validation import value_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
TEXT = re.sub(r"^```.*?^```$", "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)  # without the equations
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
KEY = re.compile(r"[A-Z]+(\.[A-Z_]+)+")
# The config that has what a row of "From one to the other" leads to.
LEADS_TO = {
    "DiffMAE at t = T": "IN1K/DiffMAE_t_last_ViT_L.yaml",
    "MAE, all else the same": "evidence/cifar10/mae.yaml",
    "the published MAE": "MAE/IN1K_ViT_L.yaml",
    "MAE-ST": "MAE_ST/K400_ViT_L.yaml",
    "VideoMAE": "VideoMAE/K400_ViT_B.yaml",
    "VideoMAE V2": "VideoMAE/V2_K400_ViT_B.yaml",
    "DiffMAE with CLIP targets": "IN1K/DiffMAE_CLIP_ViT_L.yaml",
    "DDPM, nothing masked": "IN1K/DDPM_ViT_L.yaml",
    "l-DAE": "LDAE/IN1K_ViT_L.yaml",
}


@cache
def spans(file: Path) -> dict[str, tuple[int, int]]:
    """First and last line of every class and function of a file, by its name with those of the classes around it."""
    found = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                found[prefix + child.name] = (child.lineno, child.end_lineno)
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(file.read_text()), "")
    return found


LINKS = [(text.strip("`"), target) for text, target in LINK.findall(TEXT)]
CODE_LINKS = [(name, target) for name, target in LINKS if ".py" in target]


def test_there_is_something_to_check():
    names = {name for name, _ in CODE_LINKS}
    assert {"MAE.forward", "DiffMAE.forward", "LatentDAE.forward", "reconstruction_loss", "sample"} <= names
    assert len(CONFIG_FILES) > 20 and len(KEYS) > 20


@pytest.mark.parametrize("name, target", CODE_LINKS, ids=[name for name, _ in CODE_LINKS])
def test_links_into_the_code_are_of_what_they_name(name, target):
    file, _, lines = target.partition("#")
    path = (PAGE.parent / file).resolve()
    assert path.is_file(), f"{target}: no such file"
    assert name in spans(path), f"{path.name} has no {name}"
    first, last = spans(path)[name]
    assert lines == f"L{first}-L{last}", f"{name} is now in lines {first} to {last}: write {file}#L{first}-L{last}"


def test_other_links_lead_somewhere():
    for name, target in LINKS:
        path, _, heading = target.partition("#")
        file = (PAGE.parent / path).resolve()
        assert file.is_file(), f"[{name}]({target}): no such file"
        if heading and file.suffix == ".md":
            assert heading in anchors(file), f"[{name}]({target}): no such heading"


def anchors(file: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


CONFIG_FILES = sorted({code for code in CODE.findall(TEXT) if code.startswith("configs/")})
KEYS = sorted({code for code in CODE.findall(TEXT) if KEY.fullmatch(code)})


@pytest.mark.parametrize("file", CONFIG_FILES)
def test_configs_exist_and_load(file):
    assert (ROOT / file).is_file()
    load_config([ROOT / file])


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_declared(key):
    value_of(get_cfg(), key)


def test_other_files_that_are_named_exist():
    for code in CODE.findall(TEXT):
        if code.startswith(("tests/", "tools/", "docs/", "diffmae_video/")):
            assert (ROOT / code).is_file(), code


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("target, keys", [row[1:] for row in rows_of("From one to the other")])
def test_keys_that_lead_to_an_objective_are_what_its_config_holds(target, keys):
    """``KEY`` is followed by its value where the row gives one."""
    cfg = load_config([ROOT / "configs" / LEADS_TO[target]])
    pairs = re.findall(rf"`({KEY.pattern})`(?: at)? `([^`]+)`", keys)
    given = {key: yaml.safe_load(value) for key, *_, value in pairs if not KEY.fullmatch(value)}
    assert {key: value_of(cfg, key) for key in given} == given


def test_every_objective_of_the_table_is_explained():
    objectives = {row[0] for row in rows_of("Objectives and their configs")}
    assert {"MAE", "MAE-ST", "VideoMAE", "DiffMAE at t = T", "DDPM, nothing masked", "l-DAE"} <= objectives
    assert {row[1] for row in rows_of("From one to the other")} == set(LEADS_TO)
