"""Files that say which number a class has."""

from __future__ import annotations

import json
import re
from pathlib import Path

NUMBER_FIRST = re.compile(r"#?\s*(\d+)\s*[\s,;]\s*(.+)")  # "0,abseiling", "1 ApplyEyeMakeup", "#0 abseiling"
NUMBER_LAST = re.compile(r"(.+?)\s*[\s,;]\s*(\d+)")  # "abseiling,0"


def read_label_map(file: Path) -> dict[str, int]:
    """Class name -> class number, as the file has them.

    Args:
        file: JSON ``{"name": number}`` (the number may be text) or ``["name", ...]``; or text with a number and a name,
            or a name and a number, on every line, after a header or not; or only names, numbered from 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, or two classes share a name or a number.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no such file of class names: {file}")
    if file.suffix.lower() == ".json":
        pairs = _from_json(file)
    else:
        pairs = _from_lines(file)
    labels = dict(pairs)
    if not labels:
        raise ValueError(f"{file} names no class; expected lines of the form: number name")
    if len(labels) != len(pairs) or len(set(labels.values())) != len(pairs):
        names, numbers = [name for name, _ in pairs], [number for _, number in pairs]
        twice = next(item for item in [*names, *numbers] if names.count(item) > 1 or numbers.count(item) > 1)
        raise ValueError(f"{file}: two classes share the name or number {twice!r}")
    return labels


def number_of(name: str, labels: dict[str, int], file: Path | str) -> int:
    """The number of a class.

    Raises ValueError if ``labels``, read from ``file``, does not have it.
    """
    if name not in labels:
        some = next(iter(labels), "none")
        raise ValueError(f"{file} has no class {name!r}; it names {len(labels)} classes, such as {some!r}")
    return labels[name]


def _from_json(file: Path) -> list[tuple[str, int]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict):
            return [(str(name), int(number)) for name, number in content.items()]
        if isinstance(content, list) and all(isinstance(name, str) for name in content):
            return [(name, number) for number, name in enumerate(content)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no JSON file of class names and numbers: {error}") from error
    raise ValueError(f'{file} holds neither {{"name": number, ...}} nor ["name", ...]')


def _from_lines(file: Path) -> list[tuple[str, int]]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    for pattern, name_group in ((NUMBER_FIRST, 2), (NUMBER_LAST, 1)):
        matches = [pattern.fullmatch(line) for line in lines]
        # The first line may be a header; a file in which other lines do not match has another form.
        if len(matches) > 0 and any(matches) and all(matches[1:]):
            return [(m[name_group].strip(" \"'"), int(m[3 - name_group])) for m in matches if m]
    if any(NUMBER_FIRST.fullmatch(line) for line in lines):
        odd = next(line for line in lines[1:] if not NUMBER_FIRST.fullmatch(line))
        raise ValueError(f"{file}: some lines begin with a class number, but {odd!r} does not")
    return [(line.strip(" \"'"), number) for number, line in enumerate(lines)]
