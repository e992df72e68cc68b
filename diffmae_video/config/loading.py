"""YAML files and KEY VALUE overrides -> one frozen, validated configuration.

Files are read as YAML nodes, not as Python objects, because nodes know their line: every message names ``file:line``.
All wrong keys and values of all files are reported at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from diffmae_video.config.defaults import get_cfg
from diffmae_video.config.errors import ConfigError
from diffmae_video.config.validation import validate
from diffmae_video.config.values import WrongValue, read_node, read_override


def load_config(files: Sequence[str | Path] = (), overrides: Sequence[Any] = ()) -> CfgNode:
    """The defaults, changed by every file in order (its ``_BASE_`` first), then by the overrides; later ones win.

    ``_BASE_`` is a path or a list of paths, relative to the file that names it. ``overrides`` is a flat list
    ``[KEY, VALUE, KEY, VALUE, ...]`` of full dotted keys and values as typed in a shell (Python objects are accepted).
    The result is frozen and has passed ``validate``.

    Raises ConfigError: a file that is missing or not YAML, a cycle of ``_BASE_``, an undeclared or duplicate key, a
    value of the wrong type, values that cannot work together.
    """
    cfg = get_cfg()
    problems: list[str] = []
    for path in [files] if isinstance(files, (str, Path)) else files:
        _merge_file(cfg, str(path), (), problems)
    _merge_overrides(cfg, overrides, problems)
    return _finish(cfg, problems)


def from_yaml(text: str, source: str = "stored configuration") -> CfgNode:
    """The frozen, validated configuration written by ``dump``; ``source`` names it in messages.

    A key that was declared after the text was written has its default. Raises ConfigError, as ``load_config``; a key
    that this version does not declare is refused, never dropped.
    """
    cfg = get_cfg()
    problems: list[str] = []
    root = _compose(text, source)
    if root is not None:
        _merge_mapping(cfg, root, "", source, problems)
    if problems:
        problems.append(f"{source} was written by another version of diffmae_video: read it with that version")
    return _finish(cfg, problems)


def from_dict(values: Mapping[str, Any], source: str = "configuration") -> CfgNode:
    """The frozen, validated configuration with the values of a nested mapping; the rest has its default.

    Raises ConfigError, as ``load_config``.
    """
    cfg = get_cfg()
    problems: list[str] = []
    try:
        text = yaml.safe_dump(_plain(values))
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: only plain Python values can be keys and values: {error}") from error
    root = _compose(text, source)
    if root is not None:
        _merge_mapping(cfg, root, "", source, problems)
    return _finish(cfg, problems)


def dump(cfg: CfgNode) -> str:
    """The whole configuration as YAML, keys in their declared order; ``from_yaml`` reads it back equal."""
    return yaml.dump(_plain(cfg), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """One key a line, but a list in brackets, as people write them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # two keys that hold one list object are still two lists in the file


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def _finish(cfg: CfgNode, problems: Sequence[str]) -> CfgNode:
    if problems:
        raise ConfigError.from_problems(problems)
    validate(cfg)
    cfg.freeze()
    return cfg


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


# --------------------------------------------------------------------------------------------------------------- files


def _merge_file(cfg: CfgNode, path: str, parents: tuple[str, ...], problems: list[str]) -> None:
    """Merges one file, its ``_BASE_`` first. ``parents``: real paths of the files that led here through ``_BASE_``."""
    real_path = os.path.realpath(path)
    if real_path in parents:
        chain = " -> ".join(os.path.relpath(step) for step in (*parents[parents.index(real_path) :], real_path))
        raise ConfigError(f"{path}: a file cannot be its own {BASE_KEY}: {chain}")
    root = _compose(_read_text(path), path)
    if root is None:  # an empty file, or nothing but comments
        return
    for base, line in _bases(root, path, problems):
        base_path = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(base)))
        if not os.path.isfile(base_path):
            problems.append(f"{path}:{line}: {BASE_KEY}: no file {base_path} (the path is relative to this file)")
            continue
        _merge_file(cfg, base_path, (*parents, real_path), problems)
    _merge_mapping(cfg, root, "", path, problems)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file (current folder: {os.getcwd()})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a configuration file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML file: byte {error.start} is not UTF-8 text") from error


def _compose(text: str, source: str) -> yaml.MappingNode | None:
    """The root mapping of a YAML document, None where it is empty. Nothing is constructed, so nothing can be run."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}: not valid YAML: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    if root is None or _is_null(root):
        return None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{source}:{_line(root)}: expected KEY: VALUE lines at the top of the file")
    return root


def _bases(root: yaml.MappingNode, path: str, problems: list[str]) -> Iterator[tuple[str, int]]:
    """(path as written, line) of every base of a file, in order."""
    for key, value in root.value:
        if key.value != BASE_KEY:
            continue
        for entry in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(entry, yaml.ScalarNode) and entry.tag == "tag:yaml.org,2002:str" and entry.value:
                yield entry.value, _line(entry)
            else:
                problems.append(f"{path}:{_line(entry)}: {BASE_KEY}: expected the path of a YAML file, or a list")


def _merge_mapping(node: CfgNode, mapping: yaml.MappingNode, prefix: str, source: str, problems: list[str]) -> None:
    """Merges the keys of one section into ``node``; ``prefix`` is the section's dotted name with a final dot."""
    lines: dict[str, int] = {}
    for key_node, value_node in mapping.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{source}:{line}: a key must be a plain word")
            continue
        key = key_node.value
        where = f"{source}:{line}: {prefix}{key}"
        if key in lines:
            problems.append(f"{where}: this key is set twice, on line {lines[key]} and on line {line}: keep one")
            continue
        lines[key] = line
        if key == BASE_KEY and not prefix:
            continue
        if key not in node:
            problems.append(f"{where}: {_unknown(prefix + key, isinstance(value_node, yaml.MappingNode))}")
        elif isinstance(node[key], CfgNode):
            if isinstance(value_node, yaml.MappingNode):
                _merge_mapping(node[key], value_node, f"{prefix}{key}.", source, problems)
            else:
                problems.append(f"{where}: is a section: expected indented keys below it ({', '.join(node[key])})")
        else:
            try:
                node[key] = read_node(value_node, node[key])
            except WrongValue as error:
                problems.append(f"{source}:{_line(value_node)}: {prefix}{key}: {error}")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


# ----------------------------------------------------------------------------------------------------------- overrides


def _merge_overrides(cfg: CfgNode, overrides: Sequence[Any], problems: list[str]) -> None:
    if len(overrides) % 2:
        words = " ".join(map(str, overrides))
        raise ConfigError(f"overrides come in pairs KEY VALUE (no '='), but these are {len(overrides)} words: {words}")
    for full_key, value in zip(overrides[0::2], overrides[1::2], strict=True):
        *sections, key = str(full_key).split(".")
        node: Any = cfg
        for section in sections:
            node = node.get(section) if isinstance(node, CfgNode) else None
        where = f"override {full_key}"
        if not isinstance(node, CfgNode) or key not in node:
            problems.append(f"{where}: {_unknown(str(full_key), False)}")
        elif isinstance(node[key], CfgNode):
            problems.append(f"{where}: is a section: override one of its keys ({', '.join(node[key])})")
        else:
            try:
                node[key] = read_override(value, node[key])
            except WrongValue as error:
                problems.append(f"{where}: {error}")


# -------------------------------------------------------------------------------------------------------- unknown keys


def _unknown(full_key: str, is_section: bool) -> str:
    """Why ``full_key`` is refused, with the nearest declared names."""
    leaves, sections = _declared_keys(get_cfg())
    declared = sections if is_section else leaves
    if full_key in declared:
        return f"is declared, but not on this level: nest it, one indented section per part of {full_key}"
    if full_key.rsplit(".", 1)[-1] == BASE_KEY:
        return f"{BASE_KEY} works at the top of a file only"
    nearest = _nearest(full_key, declared)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "; all keys: diffmae_video/config/defaults.py"
    return f"no such {'section' if is_section else 'key'}{hint}"


def _nearest(full_key: str, declared: Sequence[str]) -> list[str]:
    """At most two declared names: those with the same last part first (the right key in a wrong section)."""
    last_part = full_key.rsplit(".", 1)[-1].upper()
    same = [name for name in declared if name.rsplit(".", 1)[-1] == last_part]
    by_upper = {name.upper(): name for name in declared}
    close = [by_upper[name] for name in difflib.get_close_matches(full_key.upper(), by_upper, n=2, cutoff=0.6)]
    same.sort(key=lambda name: difflib.SequenceMatcher(None, full_key.upper(), name).ratio(), reverse=True)
    return list(dict.fromkeys(same + close))[:2]


def _declared_keys(node: CfgNode, prefix: str = "") -> tuple[list[str], list[str]]:
    """Full dotted names of all values, and of all sections."""
    leaves: list[str] = []
    sections: list[str] = []
    for key, value in node.items():
        if isinstance(value, CfgNode):
            inner_leaves, inner_sections = _declared_keys(value, f"{prefix}{key}.")
            leaves += inner_leaves
            sections += [prefix + key, *inner_sections]
        else:
            leaves.append(prefix + key)
    return leaves, sections
