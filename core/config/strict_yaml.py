"""YAML in which a key is written once: the later of two would win without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from core.errors import UserError

__all__ = ["parse_yaml", "read_yaml"]


def read_yaml(path: Path) -> Any:
    """Read a YAML file; an empty one is None.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds a key twice.
    """
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"this file cannot be read ({reason})", where=str(path)) from error
    except yaml.YAMLError as error:
        raise UserError(f"this is not valid YAML ({error})", where=str(path)) from error


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Read YAML from memory.

    Args:
        text: the YAML.
        where: what an error calls it.

    Raises:
        UserError: a key stands twice in one mapping.
        yaml.YAMLError: this is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_repeated_keys(node, "", where, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _refuse_repeated_keys(node: yaml.Node, prefix: str, where: str, seen: set[int]) -> None:
    """Walk a document; ``seen`` are the nodes passed already, which aliases lead to again."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _refuse_repeated_keys(item, f"{prefix}{i}.", where, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        identity = (key.tag, str(key.value))
        if identity in lines:
            raise UserError(
                f"key '{prefix}{key.value}' is written twice, in lines {lines[identity]} and {line}",
                where=where,
                cure="Write it once; the parts of a section stand together under one name",
            )
        lines[identity] = line
        _refuse_repeated_keys(value, f"{prefix}{key.value}.", where, seen)
