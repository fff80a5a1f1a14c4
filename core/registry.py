"""Components chosen by name: ``name -> "module:class"``, imported when asked for.

A registry is a plain dictionary, so that a new component is one line of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from core.config import Config
from core.config.explain import did_you_mean
from core.errors import UserError

__all__ = ["load_entry", "look_up", "named_entry"]


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
