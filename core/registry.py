"""Components chosen by name: ``name -> "module:class"``, imported when asked for.

A registry is a plain dictionary, so that a new component is one line of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from core.config import Config
from core.config.explain import did_you_mean, explain
from core.errors import UserError

__all__ = ["load_entry", "look_up", "named_entry", "read_choice"]


def look_up(registry: Mapping[str, str], config: Config, key: str, kind: str) -> Any:
    """The class that a configuration names.

    Args:
        registry: ``name -> "module:class"``.
        config: the whole configuration.
        key: dotted key that holds the name, e.g. ``model.name``.
        kind: what the entries are, in the plural, e.g. "models".

    Raises:
        UserError: the key is missing or holds a name the registry does not know.
    """
    name = config.get(key)
    where = config.origin(key)
    if name is None:
        cure = f"Set it to one of: {', '.join(registry)}"
        raise UserError(f"key '{key}' is missing", where=where, cure=cure)
    if not isinstance(name, str) or name not in registry:
        raise UserError(
            f"key '{key}' has the unknown value {name!r}",
            where=where,
            cure=did_you_mean(name, registry, f"Known {kind}"),
        )
    return load_entry(registry[name])


def named_entry(registry: Mapping[str, str], name: str, kind: str) -> Any:
    """The entry of this name, imported.

    Args:
        kind: what the entries are, in the singular, e.g. "format of predictions".

    Raises:
        UserError: the registry does not know the name.
    """
    if name not in registry:
        raise UserError(
            f"there is no {kind} '{name}'", cure=did_you_mean(name, registry, "Known names")
        )
    return load_entry(registry[name])


def load_entry(entry: str) -> Any:
    """Import what ``module:attribute`` names."""
    module, _, attribute = entry.partition(":")
    return getattr(import_module(module), attribute)


def read_choice(
    registry: Mapping[str, str], value: Any, key: str, kind: str, default: str | None = None
) -> Any:
    """For a field of the configuration: the section that a mapping's ``name`` picks; anything else as it is.

    Args:
        registry: ``name -> "module:section"``.
        key: dotted key of the field, e.g. ``data.partition``.
        kind: what the entries are, in the singular, e.g. "partition".
        default: the name where none is given; None = one has to be.

    Raises:
        ValueError: no such entry, or an unknown or ill-typed key.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("name", default)
    if not isinstance(name, str) or name not in registry:
        hint = did_you_mean(name, registry, f"Known {kind}s")
        raise ValueError(f"unknown {kind} '{name}'. {hint}")
    section = load_entry(registry[name])
    try:
        return section.model_validate(value)
    except ValidationError as error:
        sentences = [explain(detail, section, key, value)[1] for detail in error.errors()]
        raise ValueError("; ".join(sentences)) from error
