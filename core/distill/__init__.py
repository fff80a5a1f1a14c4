"""Distillation methods. A new one is a file here and a line in ``METHODS``."""

from __future__ import annotations

import difflib
from importlib import import_module

from core.config import Config
from core.distill.base import Knowledge, Method
from core.errors import UserError

__all__ = ["METHODS", "Knowledge", "Method", "method_class"]

METHODS: dict[str, str] = {  # distill.name -> module:class; imported when asked for
    "u2mkd": "core.distill.u2mkd:U2MKD",
    "2dpass": "core.distill.twodpass:MSFSKD",
}


def method_class(config: Config) -> type[Method]:
    """The method that ``distill.name`` asks for.

    Raises:
        UserError: no ``distill`` section, or an unknown method.
    """
    section = config.tree.get("distill")
    name = section.get("name") if isinstance(section, dict) else None
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=1)
        what = "key 'distill.name' is missing" if name is None else f"unknown method '{name}'"
        raise UserError(
            what,
            where=f"{config.origin('distill.name')}, key 'distill.name'",
            cure=f"Did you mean '{near[0]}'?" if near else f"Known methods: {', '.join(METHODS)}",
        )
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)
