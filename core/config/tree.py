"""The merged tree of a configuration, and typed sections of it with errors that name the key and the file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.config.explain import explain
from core.config.strict_yaml import NotYAMLError, dump_yaml, parse_yaml
from core.errors import UserError
from core.io import write_text

__all__ = ["Config", "Section"]

S = TypeVar("S", bound="Section")
COMMAND_LINE = "command line"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Section(BaseModel):
    """Base of every typed part of the configuration: frozen, and a misspelt key is an error.

    No number is infinite or NaN, unless a field allows for it.

    Each field says in ``Field(description=...)`` what it means and in which unit it is; ``python -m core.config``
    prints these.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        str_max_length=4096,  # of a path
    )


@dataclass
class Config:
    """The merged tree and, for each dotted key, the file (or command line) it came from."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    source: str = "configuration"

    def get(self, key: str) -> Any:
        """The value at a dotted key ("" = the whole tree), None where there is none."""
        value: Any = self.tree
        for part in _parts(key):
            if not isinstance(value, Mapping):
                return None
            value = value.get(part)
        return value

    def section(self, key: str) -> Mapping[str, Any]:
        """The mapping at a dotted key, empty where there is nothing.

        Raises:
            UserError: something else stands there.
        """
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            what = f"key '{key}' has the value {value!r:.100}; expected 'key: value' lines"
            raise UserError(what, where=self.origin(key))
        return value

    def merge(self, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        """Merge ``values`` over the tree: mappings deep, lists and scalars replaced."""
        target = self.tree
        for part in _parts(prefix):
            target = _child(target, part)
        _merge(target, values, origin, prefix, self.origins)

    def override(self, options: Sequence[str]) -> None:
        """Apply ``--a.b value``, ``--a.b=value`` and ``a.b=value``; values are parsed as YAML.

        Raises:
            UserError: an option without a value.
        """
        queue = list(options)
        while queue:
            option = queue.pop(0)
            key, equals, value = option.removeprefix("--").partition("=")
            if not equals:
                if not option.startswith("--") or not queue:
                    raise UserError(
                        f"cannot read '{option}' as an override",
                        where=COMMAND_LINE,
                        cure="Write --section.key VALUE or section.key=VALUE, e.g. --model.cr 0.5",
                    )
                value = queue.pop(0)
            parent, _, leaf = key.rpartition(".")
            self.merge({leaf: _parse_value(value)}, COMMAND_LINE, parent)

    def parse(self, schema: type[S], prefix: str = "") -> S:
        """Validate the subtree at ``prefix`` (dotted; empty = whole tree).

        Raises:
            UserError: names every wrong key, its file, and the nearest valid key.
        """
        subtree = self.get(prefix)
        if subtree is None:
            subtree = {}
        try:
            return schema.model_validate(_expand(subtree, prefix, self))
        except ValidationError as error:
            lines: dict[str, None] = {}  # a set that keeps its order
            for detail in error.errors():
                key, what = explain(detail, schema, prefix, subtree)
                lines[f"{self.origin(key)}: {what}"] = None
            raise UserError("; ".join(lines)) from error

    def origin(self, key: str) -> str:
        """The file ``key`` (or its nearest parent) was last set in."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return self.source

    def dump(self, path: Path) -> None:
        """Write the merged tree as YAML, atomically."""
        write_text(path, dump_yaml(self.tree))


def _parts(key: str) -> list[str]:
    """The names a dotted key leads through."""
    return key.split(".") if key else []


def _joined(prefix: str, key: object) -> str:
    """The dotted key of ``key`` in the section ``prefix``."""
    return f"{prefix}.{key}" if prefix else str(key)


def _merge(
    target: dict[str, Any],
    values: Mapping[str, Any],
    origin: str,
    prefix: str,
    origins: dict[str, str],
) -> None:
    for key, value in values.items():
        name = _joined(prefix, key)
        origins[name] = origin
        if isinstance(value, Mapping):
            _merge(_child(target, key), value, origin, name, origins)
        else:
            target[key] = value


def _child(target: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at ``key``; anything else there is replaced by an empty one."""
    child = target.get(key)
    if not isinstance(child, dict):
        child = {}
        target[key] = child
    return child


def _parse_value(text: str) -> Any:
    """A value as YAML reads it; what is no YAML, such as ``*.bin``, is text."""
    try:
        return parse_yaml(text, COMMAND_LINE)
    except NotYAMLError:
        return text


def _expand(value: Any, key: str, config: Config) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in strings by environment variables."""
    if isinstance(value, Mapping):
        expanded = {}
        for name, item in value.items():
            expanded[name] = _expand(item, _joined(key, name), config)
        return expanded
    if isinstance(value, list):
        return [_expand(item, key, config) for item in value]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            raise UserError(
                f"key '{key}' uses the environment variable {name}, which is not set",
                where=config.origin(key),
                cure=f"export {name}=/your/folder, or pass --{key} VALUE",
            )
        return found

    return _VARIABLE.sub(substitute, value)
