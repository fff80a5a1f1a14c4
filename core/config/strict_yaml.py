"""YAML that means what it looks like: the one loader, and the one writer, of every YAML file.

Plain scalars are read as YAML 1.2 does. What YAML 1.1 makes of ``011`` (nine), ``1:30`` (ninety), ``no`` (false) and
``2001-01-01`` (a date) is text here, and so is every other number with a leading zero: sequences and scenes have such
names. A key stands once in a mapping. Aliases, depth, numbers and the file's size have limits, so that no file can stop
a command for long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from core.decode import read_text
from core.errors import UserError

__all__ = ["NotYAMLError", "dump_yaml", "parse_yaml", "read_yaml"]

_BYTES = 4 << 20  # of a file
_DEPTH = 50  # mappings and lists inside each other
_REPEATED = 100_000  # values that aliases may add to what is written
_LARGEST = 1 << 63  # integers; no count, size or seed is larger
_DIGITS = 100  # of an integer that are looked at; Python refuses 4300
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_KINDS = (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT))


class NotYAMLError(UserError):
    """Text with another syntax than YAML's."""


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to nodes, with YAML 1.2's plain scalars and limits on what a node may hold."""

    def __init__(self, text: str, where: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.where = where
        self.written = 0  # nodes
        self.open: list[str | None] = []  # anchors of the nodes that are being read
        self.sizes: dict[int, int] = {}  # number of values by a node's id, aliases written out
        self.depths: dict[int, int] = {}

    def resolve(
        self, kind: type[yaml.Node], value: str | None, implicit: tuple[bool, bool] | bool
    ) -> str:
        """The tag of a node that has none: of plain scalars by their look."""
        if kind is yaml.ScalarNode and isinstance(implicit, tuple) and implicit[0]:
            return _TAG + _kind(value or "")
        return super().resolve(kind, value, implicit)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a node and all below it, as far as the limits allow."""
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.open:
                raise UserError(f"'*{event.anchor}' in line {line} holds itself", where=self.where)
            return super().compose_node(parent, index)
        self.written += 1
        self._check_depth(len(self.open), line)
        self.open.append(event.anchor)
        node = super().compose_node(parent, index)
        self.open.pop()
        if node is not None:
            self._measure(node, line)
        return node

    def _check_depth(self, depth: int, line: int) -> None:
        if depth > _DEPTH:
            what = f"more than {_DEPTH} lists and mappings lie inside each other in line {line}"
            raise UserError(what, where=self.where)

    def _measure(self, node: yaml.Node, line: int) -> None:
        """Enter a node's size and depth; those of its children, aliases too, are known."""
        size = 1
        depth = 0
        for child in _children(node):
            size += self.sizes[id(child)]
            depth = max(depth, 1 + self.depths[id(child)])
        self._check_depth(depth, line)
        if size > self.written + _REPEATED:
            raise UserError(
                f"aliases repeat more than {_REPEATED} values in line {line}", where=self.where
            )
        self.sizes[id(node)] = size
        self.depths[id(node)] = depth


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""


for _kind_name, _pattern in _KINDS:
    _Dumper.add_implicit_resolver(_TAG + _kind_name, re.compile(f"(?:{_pattern.pattern})$"), None)
_Dumper.add_implicit_resolver(_TAG + "int", re.compile(r"[-+]?0[0-9]+$"), None)


def read_yaml(path: Path) -> Any:
    """Read a YAML file; an empty one is None.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or not YAML, or holds what :func:`parse_yaml` refuses.
    """
    return parse_yaml(read_text(path, most=_BYTES), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML from memory.

    Args:
        text: one document.
        where: what an error calls it.

    Raises:
        NotYAMLError: this is not YAML.
        UserError: a key stands twice in one mapping, or a number, the depth or what aliases repeat is too large.
    """
    try:
        node = _Loader(text, where).get_single_node()
    except yaml.YAMLError as error:
        raise NotYAMLError(f"this is not valid YAML ({error})", where=where) from error
    if node is None:
        return None
    return _value(node, "", where)


def dump_yaml(tree: Any) -> str:
    """Write plain values as YAML, keys in their order; :func:`parse_yaml` reads the same values back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _value(node: yaml.Node, key: str, where: str) -> Any:
    """The plain value of a node; ``key`` is the dotted key that leads to it."""
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(item, _joined(key, i), where) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, key, where)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, where)
    raise _unknown_tag(node, where)


def _joined(key: str, part: object) -> str:
    return f"{key}.{part}" if key else str(part)


def _mapping(node: yaml.MappingNode, key: str, where: str) -> dict[Any, Any]:
    """The values of a mapping; what ``<<`` brings yields to what stands beside it."""
    values: dict[Any, Any] = {}
    brought: dict[Any, Any] = {}
    lines: dict[Any, int] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"a list or mapping is no key (line {line})", where=where)
        name: Any = _MERGE
        if not _is_merge(key_node):
            name = _scalar(key_node, where)
        path = _joined(key, key_node.value)
        if name in lines:
            raise UserError(
                f"key '{path}' is written twice, in lines {lines[name]} and {line}",
                where=where,
                cure="Write it once; the parts of a section stand together under one name",
            )
        lines[name] = line
        value = _value(value_node, path, where)
        if name is _MERGE:
            brought = _merged(value, line, where)
        else:
            values[name] = value
    return brought | values


def _is_merge(node: yaml.ScalarNode) -> bool:
    return node.value == "<<" and node.style is None


def _merged(value: Any, line: int, where: str) -> dict[Any, Any]:
    """What ``<<: value`` brings; of several mappings the first wins."""
    mappings = value if isinstance(value, list) else [value]
    merged: dict[Any, Any] = {}
    for mapping in mappings:
        if not isinstance(mapping, dict):
            raise UserError(f"'<<' in line {line} takes mappings", where=where)
        merged = mapping | merged
    return merged


def _scalar(node: yaml.ScalarNode, where: str) -> str | int | float | None:
    """The value of a scalar, by its tag."""
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "str":
        if "\0" in text:
            raise UserError(f"line {_line(node)} holds a NUL character", where=where)
        return text
    if _kind(text) != kind:  # written before it, e.g. !!int x
        raise _unknown_tag(node, where)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    return _number(text, kind, f"line {_line(node)}", where)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _kind(text: str) -> str:
    for kind, pattern in _KINDS:
        if pattern.fullmatch(text):
            return kind
    return "str"


def _number(text: str, kind: str, line: str, where: str) -> int | float:
    """An integer or a float.

    Raises:
        UserError: it is larger than anything has use for.
    """
    if kind == "float":
        if text[-1] in "fFnN":
            return float(text.replace(".", ""))  # .inf and .nan
        number: int | float = float(text)
        fits = not math.isinf(number)
    else:
        number = int(text[:_DIGITS], 0)
        fits = abs(number) < _LARGEST
    if not fits:
        raise UserError(f"the number '{text[:20]}' in {line} is too large", where=where)
    return number


def _unknown_tag(node: yaml.Node, where: str) -> UserError:
    tag = node.tag.replace(_TAG, "!!")
    return UserError(
        f"'{tag}' in line {_line(node)} is not read; text, numbers, true, false, null, lists and mappings are",
        where=where,
    )
