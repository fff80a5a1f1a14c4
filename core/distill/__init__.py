"""Distillation methods. A new one is a file here and a line in ``METHODS``."""

from __future__ import annotations

from core.config import Config
from core.distill.base import Knowledge, Method
from core.registry import look_up

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
    return look_up(METHODS, config, "distill.name", "methods")
