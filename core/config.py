"""Chained YAML, dotted overrides, and typed sections with errors that name the key and the file.

``load_config("configs/nuscenes/spvcnn.yaml")`` applies every ``default.yaml`` from the working directory down to the
file's folder, then the file, then the command line. Mappings merge, everything else replaces. Each component of the
code owns a :class:`Section` for its part of the tree; nothing reads an untyped value.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import UserError
from core.io import write_text

__all__ = ["Config", "Section", "load_config"]

S = TypeVar("S", bound="Section")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}")


class Section(BaseModel):
    """Base of every typed part of the configuration: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class Config:
    """The merged tree and, for each dotted key, the file (or command line) it came from."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    source: str = "configuration"

    def merge(self, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        """Merge ``values`` over the tree: mappings deep, lists and scalars replaced."""
        target = self.tree
        for part in filter(None, prefix.split(".")):
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
                        where="command line",
                        cure="Write --section.key VALUE or section.key=VALUE, e.g. --model.cr 0.5",
                    )
                value = queue.pop(0)
            parent, _, leaf = key.rpartition(".")
            self.merge({leaf: _parse_value(value)}, "command line", parent)

    def parse(self, schema: type[S], prefix: str = "") -> S:
        """Validate the subtree at ``prefix`` (dotted; empty = whole tree).

        Raises:
            UserError: names every wrong key, its file, and the nearest valid key.
        """
        subtree: Any = self.tree
        for part in filter(None, prefix.split(".")):
            subtree = subtree.get(part, {}) if isinstance(subtree, Mapping) else {}
        try:
            return schema.model_validate(_expand(subtree, prefix, self))
        except ValidationError as error:
            lines = [self._explain(e, schema, prefix, subtree) for e in error.errors()]
            raise UserError("; ".join(dict.fromkeys(lines))) from error

    def _explain(self, error: Any, schema: type[Section], prefix: str, subtree: Any) -> str:
        path = _path(error, subtree)
        key = ".".join(filter(None, [prefix, *path]))
        where = self.origin(key)
        if error["type"] == "extra_forbidden":
            known = _known_keys(schema, error["loc"][:-1])
            near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
            hint = (
                f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
            )
            return f"{where}: unknown key '{key}'; {hint}"
        if error["type"] == "missing":
            return f"{where}: key '{key}' is missing; set it in the YAML or with --{key} VALUE"
        return f"{where}: key '{key}' has the value {error['input']!r}: {error['msg']}"

    def origin(self, key: str) -> str:
        """The file ``key`` (or its nearest parent) was last set in."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return self.source

    def dump(self, path: Path) -> None:
        """Write the merged tree as YAML, atomically."""
        write_text(path, yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True))


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with its chain of ``default.yaml`` files and apply command-line overrides.

    Raises:
        UserError: the file is missing, is not YAML, or an override has no value.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(
            path.name, [p.name for p in Path("configs").rglob("*.yaml")], n=3, cutoff=0.4
        )
        hint = (
            f"Similar names under configs/: {', '.join(near)}"
            if near
            else "See configs/ for what exists"
        )
        raise UserError("this configuration file does not exist", where=str(path), cure=hint)
    config = Config(source=str(path))
    root, folder = Path.cwd().resolve(), path.resolve().parent
    chain = [folder, *folder.parents]
    if root in chain:
        chain = chain[: chain.index(root) + 1]
    for default in [p / "default.yaml" for p in reversed(chain)]:
        if default.is_file() and default != path.resolve():
            config.merge(_read_yaml(default), os.path.relpath(default))
    config.merge(_read_yaml(path), str(path))
    config.override(overrides)
    return config


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise UserError(f"this is not valid YAML ({error})", where=str(path)) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"expected 'key: value' lines, found {type(value).__name__}", where=str(path)
        )
    return value


def _merge(
    target: dict, values: Mapping, origin: str, prefix: str, origins: dict[str, str]
) -> None:
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        origins[name] = origin
        if isinstance(value, Mapping):
            _merge(_child(target, key), value, origin, name, origins)
        else:
            target[key] = value


def _child(target: dict, key: Any) -> dict:
    """The mapping at ``key``; anything else there is replaced by an empty one."""
    if not isinstance(target.get(key), dict):
        target[key] = {}
    return target[key]


def _parse_value(text: str) -> Any:
    if _SCIENTIFIC.fullmatch(text):  # YAML 1.1 reads 1e-3 as text
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _path(error: Any, subtree: Any) -> list[str]:
    """Keys that lead to an error; the names pydantic gives the members of a union, which are no keys, are left out."""
    path, node = [], subtree
    for i, part in enumerate(error["loc"]):
        is_key = isinstance(node, Mapping) and part in node
        is_item = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if is_key or is_item:
            node = node[part]
        elif error["type"] != "missing" or i < len(error["loc"]) - 1:
            continue
        path.append(str(part))
    return path


def _expand(value: Any, key: str, config: Config) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in strings by environment variables; defaults after ``:-``."""
    if isinstance(value, Mapping):
        return {k: _expand(v, f"{key}.{k}" if key else str(k), config) for k, v in value.items()}
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


def _known_keys(schema: Any, location: Sequence[str | int]) -> list[str]:
    """Field names of the section at ``location`` below ``schema``."""
    for i, part in enumerate(location):
        if (
            isinstance(part, int)
            or not hasattr(schema, "model_fields")
            or part not in schema.model_fields
        ):
            continue
        annotation = schema.model_fields[part].annotation
        sections = [
            c
            for c in (annotation, *getattr(annotation, "__args__", ()))
            if hasattr(c, "model_fields")
        ]
        tag = (
            location[i + 1] if i + 1 < len(location) else None
        )  # pydantic's name of a member of a union
        schema = next((c for c in sections if _named(c, tag)), sections[0] if sections else schema)
    return list(getattr(schema, "model_fields", {}))


def _named(section: Any, tag: str | int | None) -> bool:
    """Whether ``name: tag`` picks this section in a union."""
    field = section.model_fields.get("name")
    return (
        tag is not None and field is not None and tag in getattr(field.annotation, "__args__", ())
    )
