"""Commands that the pages tell people to type name files that exist and keys and values that are accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from diffmae_video.config import load_config

ROOT = Path(__file__).resolve().parents[1]
RUN = "python tools/run_net.py --cfg "
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("datasets/*.md"))
    if RUN in path.read_text()
)


def commands(page: Path) -> list[str]:
    """The commands of a page's code blocks that run a config, with their shell variables filled in."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    blocks = blocks.replace("\\\n", " ")
    variables = dict(re.findall(r'^(\w+)="(.*)"$', blocks, re.MULTILINE))
    for name, value in variables.items():
        blocks = blocks.replace(f"${name}", value)
    return re.findall(r"^python tools/run_net\.py --cfg .*$", blocks, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_are_accepted(page):
    found = commands(ROOT / page)
    assert found
    for command in found:
        recipe, *overrides = shlex.split(command, comments=True)[3:]
        load_config([ROOT / recipe], overrides)
