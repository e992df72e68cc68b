"""Reads one value of a configuration: checks it against the type of the declared default, and says what was expected.

The rules, for files and overrides alike: an integer may stand for a float, ``1e-3`` (a string to YAML 1.1) is a float
where a float is declared, a list may be written ``[2, 16, 16]`` or ``(2, 16, 16)``, its elements have the type of the
default's elements, and a boolean is never a number.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_PLURALS = {bool: "booleans", int: "integers", float: "numbers", str: "strings"}


class WrongValue(Exception):
    """A value of the wrong type; the message says what was expected and what was found."""


def read_node(node: yaml.Node, default: Any) -> Any:
    """The Python value of a YAML node, of exactly the type of ``default`` (a list for a list or tuple).

    Raises WrongValue.
    """
    if isinstance(default, (list, tuple)):
        return [_read_scalar(element, default[0], default) for element in _elements(node, default)]
    return _read_scalar(node, default, default)


def read_override(value: Any, default: Any) -> Any:
    """Like ``read_node``, for the VALUE of a trailing KEY VALUE pair: text as typed in a shell, or a Python object.

    Text for a string key is taken as it is: ``OUTPUT_DIR 2024`` needs no second pair of quotes. Raises WrongValue.
    """
    if isinstance(default, str) and isinstance(value, str):
        return value
    if isinstance(value, tuple):
        value = list(value)
    try:
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise WrongValue(f"expected {expected(default)}, got {value!r}") from error
    if node is None:
        raise WrongValue(f"expected {expected(default)}, got {value!r}")
    return read_node(node, default)


def expected(default: Any) -> str:
    """In words, what a value for a key with this default looks like."""
    if isinstance(default, (list, tuple)):
        return f"a list of {_PLURALS[type(default[0])]} such as {list(default)}"
    return _NAMES[type(default)]


def _elements(node: yaml.Node, default: Any) -> list[yaml.Node]:
    if isinstance(node, yaml.ScalarNode) and re.fullmatch(r"\(.*\)", node.value) and not node.style:
        try:  # a Python tuple: YAML sees a string
            node = yaml.compose(f"[{node.value[1:-1]}]", Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise WrongValue(f"expected {expected(default)}, got {node.value!r}") from error
    if not isinstance(node, yaml.SequenceNode):
        raise WrongValue(f"expected {expected(default)}, got {_describe(node)}")
    return node.value


def _read_scalar(node: yaml.Node, default: Any, whole: Any) -> Any:
    """``default`` decides the type; ``whole`` is the default of the key, which may be a list of such values."""
    value = _convert(node, type(default)) if isinstance(node, yaml.ScalarNode) else None
    if value is None:
        hint = "; put it in quotes" if isinstance(default, str) and isinstance(node, yaml.ScalarNode) else ""
        raise WrongValue(f"expected {expected(whole)}, got {_describe(node)}{hint}")
    return value


def _convert(node: yaml.ScalarNode, kind: type) -> Any:
    """The value as a ``kind``, None where it is of another type."""
    value = _construct(node)
    if kind is float:
        if isinstance(value, str) and node.style is None and _FLOAT.fullmatch(node.value):
            value = float(node.value)  # YAML 1.1 wants a dot in the mantissa and a sign in the exponent; people do not
        if type(value) is int:
            value = float(value)
    if type(value) is not kind:  # not isinstance: a bool is an int to Python
        return None
    if kind is float and not math.isfinite(value):
        raise WrongValue(f"expected a finite number, got {node.value}")
    if kind is int and not _INTEGER.fullmatch(node.value):
        raise WrongValue(f"{node.value} would be read as {value} (YAML 1.1): write it in plain decimal digits")
    return value


def _construct(node: yaml.ScalarNode) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.constructor.ConstructorError, ValueError) as error:
        raise WrongValue(f"cannot be read: {getattr(error, 'problem', None) or error}") from error


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section (a mapping of keys)"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    value = _construct(node)
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f"the string {value!r}"
    if isinstance(value, bool):
        return f"the boolean {node.value}"
    return f"the {type(value).__name__} {node.value}"
