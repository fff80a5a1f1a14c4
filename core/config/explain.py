"""What a validation error means to the person who wrote the YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

__all__ = ["did_you_mean", "explain"]

_SHOWN = 200  # characters of a wrong value


def did_you_mean(word: object, known: Iterable[str], title: str, cutoff: float = 0.6) -> str:
    """``Did you mean 'x'?``, or where nothing is near ``TITLE: a, b, c``."""
    names = sorted(known)
    near = difflib.get_close_matches(str(word), names, n=1, cutoff=cutoff)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"{title}: {', '.join(names)}"


def explain(
    error: ErrorDetails, schema: type[BaseModel], prefix: str, subtree: Any
) -> tuple[str, str]:
    """Say in words what is wrong with one key.

    Args:
        error: pydantic's finding.
        schema: the section.
        prefix: dotted key of the section.
        subtree: what the section was read from.

    Returns:
        The dotted key, and a sentence without its file.
    """
    path = _path(error, subtree)
    key = ".".join([prefix, *path]).strip(".")
    if error["type"] == "extra_forbidden":
        known = _known_keys(schema, error["loc"][:-1])
        hint = did_you_mean(path[-1], known, "known keys", cutoff=0.5)
        return key, f"unknown key '{key}'; {hint[0].lower()}{hint[1:]}"
    if error["type"] == "missing":
        return key, f"key '{key}' is missing; set it in the YAML or with --{key} VALUE"
    if error["type"] == "value_error" and isinstance(error["input"], dict):  # keys that disagree
        return key, f"section '{key}': {error['msg'].removeprefix('Value error, ')}"
    found = repr(error["input"])
    if len(found) > _SHOWN:
        found = found[:_SHOWN] + "…"
    return key, f"key '{key}' has the value {found}: {error['msg']}{_brackets(error)}"


def _brackets(error: ErrorDetails) -> str:
    """How a list is written, where one was expected and a single value stands."""
    value = error["input"]
    if error["type"] not in ("tuple_type", "list_type") or not isinstance(value, str | int | float):
        return ""
    parts = [part.strip() for part in str(value)[:_SHOWN].split(",")]
    return f"; write [{', '.join(parts)}]"


def _path(error: ErrorDetails, subtree: Any) -> list[str]:
    """Keys that lead to an error; the names pydantic gives the members of a union are no keys and are left out."""
    path = []
    node = subtree
    last = len(error["loc"]) - 1
    for i, part in enumerate(error["loc"]):
        if _holds(node, part):
            node = node[part]
            path.append(str(part))
        elif error["type"] == "missing" and i == last:
            path.append(str(part))
    return path


def _holds(node: Any, part: str | int) -> bool:
    """Whether a part of an error's place is a key or an index of what was read."""
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, list) and isinstance(part, int) and part < len(node)


def _known_keys(schema: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Field names of the section at ``location`` below ``schema``."""
    free = False  # a name that the user gave, which may be that of a field, too
    for i, part in enumerate(location):
        field = None if free else schema.model_fields.get(str(part))
        free = False
        if field is None:  # an index, a free name, or pydantic's name of a member of a union
            continue
        free = get_origin(field.annotation) is dict
        sections = _sections_in(field.annotation)
        if sections:
            schema = sections[0]
        for section in sections:
            if _is_named(section, location[i + 1 : i + 2]):
                schema = section
    return list(schema.model_fields)


def _sections_in(annotation: object) -> list[type[BaseModel]]:
    """The sections an annotation speaks of, by itself or as members of a union or values of a mapping."""
    sections = []
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            sections.append(candidate)
    return sections


def _is_named(section: type[BaseModel], tag: Sequence[str | int]) -> bool:
    """Whether ``name: tag`` picks this section in a union; ``tag`` holds one name or none."""
    field = section.model_fields.get("name")
    if field is None or not tag:
        return False
    return tag[0] in get_args(field.annotation)
