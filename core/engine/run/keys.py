"""Every key of the configuration with its type, default, unit and meaning, as tables."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from core.config import Section
from core.config.explain import did_you_mean
from core.engine.run.cli import run_command
from core.errors import UserError
from core.registry import load_entry

__all__ = ["Key", "Table", "command", "markdown_page", "tables"]

TOP = "top level"
REQUIRED = "required"
INTRODUCTION = """\
# Configuration

Written by `python -m core.config --markdown`; `python -m core.config SECTION` prints a part of it in the terminal.

A configuration is a YAML file. It is merged over what it builds on, in this order:

1. every `default.yaml` from the nearest folder called `configs` down to the file's own folder; of a file that stands
   below no such folder, the `default.yaml` beside it;
2. the file, and before any file's own keys those of its `base:`, a path or a list of paths relative to that file, e.g.
   `base: ../../recipes/u2mkd.yaml`. A base brings its own `default.yaml` files and bases along. A file that several ask
   for counts once, where it is first asked for;
3. the command line: `--section.key VALUE` or `section.key=VALUE`.

Mappings merge key by key, everything else replaces. The working directory plays no part. `${NAME}` and
`${NAME:-default}` stand for environment variables. A key that is unknown, or written twice in a file, is an error.
Plain values are read as YAML 1.2 does, on the command line too: `no`, `1:30` and `2001-01-01` are text. A number with
a leading zero is a name and stays as it is written: `[011, 012]`. Lists stand in brackets, e.g.
`--dataset.split.train [0, 2]`.
"""
WORDS: dict[object, str] = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "null",
    ...: "...",
    Any: "any",
}


@dataclass(frozen=True)
class Key:
    """One key, in words. ``name`` is dotted, from its section on."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """The keys of a section; ``choice`` is the ``name:`` of the component that reads it, "" where there is one form.

    ``tag`` is the key that chooses, where it is not called so.
    """

    section: str
    choice: str
    meaning: str
    keys: tuple[Key, ...]
    tag: str = "name"

    @property
    def title(self) -> str:
        """Heading of the table."""
        return f"{self.section}, {self.tag}: {self.choice}" if self.choice else self.section


def tables() -> list[Table]:
    """All sections in the order of the tree; those of components once for each component."""
    from core.data.partitions import PARTITIONS
    from core.data.paste_config import PASTES
    from core.engine.run.experiment import COMPONENTS, Experiment

    top: list[Key] = []
    found: list[Table] = []
    for name, field in Experiment.model_fields.items():
        meaning = field.description or ""
        if name in COMPONENTS:
            registry, _ = COMPONENTS[name]
            for choice, entry in registry.items():
                keys = tuple(keys_of(load_entry(entry).Config))
                found.append(Table(name, choice, meaning, keys))
            if name == "dataset":
                found += _motion_kinds()
            continue
        sections = sections_in(field.annotation)
        if sections:
            found.append(Table(name, "", meaning, tuple(keys_of(sections[0]))))
        else:
            top.append(_key(name, field, field.get_default(call_default_factory=True)))
        if name == "data":
            found += _choices("data.partition", PARTITIONS, "how points fall into cells")
            found += _choices("data.paste", PASTES, "objects from an instance database")
    return [Table(TOP, "", "keys outside of any section", tuple(top)), *found]


def _choices(section: str, registry: Mapping[str, str], meaning: str) -> Iterator[Table]:
    """The keys of each section that can stand at one place."""
    for choice, entry in registry.items():
        yield Table(section, choice, meaning, tuple(keys_of(load_entry(entry))))


def _motion_kinds() -> Iterator[Table]:
    """The keys of each kind of motion features."""
    from core.datasets.motion_config import MOTION_KINDS

    for kind, section in MOTION_KINDS.items():
        keys = tuple(keys_of(section))
        meaning = "motion features of consecutive scans"
        yield Table("dataset.columns.NAME.motion", kind, meaning, keys, "kind")


def keys_of(
    schema: type[Section], values: Section | None = None, prefix: str = ""
) -> Iterator[Key]:
    """Keys of a section and of the sections in it.

    Args:
        schema: the section.
        values: what it holds where nothing is written; None = the defaults of its fields.
        prefix: what leads each key.
    """
    for name, field in schema.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if values is not None:
            default = getattr(values, name)
        yield _key(prefix + name, field, default)
        sections = sections_in(field.annotation)
        if len(sections) == 1:
            inner = f"{prefix}{name}."
            if dict in _origins(field.annotation):
                inner += "NAME."
            values_there = None
            if isinstance(default, Section):
                values_there = default
            yield from keys_of(sections[0], values_there, inner)


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections an annotation speaks of: itself, members of a union, values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    found = []
    for part in get_args(annotation):
        found += sections_in(part)
    return found


def _origins(annotation: Any) -> set[Any]:
    """What an annotation is made of: ``dict``, ``tuple``, unions."""
    found = {get_origin(annotation)}
    for part in get_args(annotation):
        found |= _origins(part)
    return found


def _key(name: str, field: FieldInfo, default: object) -> Key:
    shown = _value(default)
    if field.is_required():
        shown = REQUIRED
    return Key(name, _bounded(type_of(field.annotation), field), shown, field.description or "")


def _value(value: object) -> str:
    """A default as YAML would write it."""
    if isinstance(value, Section):
        return "as below"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return str(value)


def type_of(annotation: Any) -> str:
    """An annotation in words: ``[number, number] | null``."""
    if annotation in WORDS:
        return WORDS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        sections = sections_in(annotation)
        if len(sections) > 1:
            tag = "name" if "name" in sections[0].model_fields else "kind"
            names = [type_of(section.model_fields[tag].annotation) for section in sections]
            ending = " | null" if type(None) in parts else ""
            return f"section, {tag}: {' | '.join(names)}{ending}"
        return " | ".join(type_of(part) for part in parts)
    if origin in (tuple, list):
        return f"[{', '.join(type_of(part) for part in parts)}]"
    if origin is dict:
        return f"{{{type_of(parts[0])}: {type_of(parts[1])}}}"
    if parts:  # Annotated
        return type_of(parts[0])
    return str(annotation)


def _bounded(words: str, field: FieldInfo) -> str:
    """The type with the bounds its numbers keep: ``number in [0, 1)``, ``integer >= 1 | null``."""
    bounds = _bounds(field)
    if not bounds:
        return words
    for number in ("integer", "number"):
        if number in words:
            return words.replace(number, f"{number} {bounds}", 1)
    return words


def _bounds(field: FieldInfo) -> str:
    """``>= 1``, ``in [0, 1)``, or nothing."""
    found: dict[str, object] = {}
    for limit in field.metadata:
        for sign in ("gt", "ge", "lt", "le"):
            if hasattr(limit, sign):
                found[sign] = getattr(limit, sign)
    low = high = ""
    if "ge" in found:
        low, opening = f">= {found['ge']}", f"[{found['ge']}"
    elif "gt" in found:
        low, opening = f"> {found['gt']}", f"({found['gt']}"
    if "le" in found:
        high, closing = f"<= {found['le']}", f"{found['le']}]"
    elif "lt" in found:
        high, closing = f"< {found['lt']}", f"{found['lt']})"
    if low and high:
        return f"in {opening}, {closing}"
    return low or high


def chosen(wanted: str | None) -> list[Table]:
    """The tables of a section (``data``), of a part of one (``data.paste``), or of a component (``minkunet``).

    Raises:
        UserError: there is no such section.
    """
    everything = tables()
    if wanted is None:
        return everything
    found = [table for table in everything if wanted in (table.section, table.choice)]
    section, _, part = wanted.partition(".")
    if part:
        for table in everything:
            keys = tuple(key for key in table.keys if f"{key.name}.".startswith(f"{part}."))
            if table.section == section and keys:
                found.append(Table(table.section, table.choice, table.meaning, keys))
    if not found:
        cure = did_you_mean(wanted, _names(everything), "Sections and components")
        raise UserError(f"there is no section '{wanted}'", where="command line", cure=cure)
    return found


def _names(shown: Sequence[Table]) -> set[str]:
    """What :func:`chosen` may be asked for."""
    names = set()
    for table in shown:
        names |= {table.section, table.choice}
        for key in table.keys:
            if key.type.startswith("section"):
                names.add(f"{table.section}.{key.name}")
    return names - {"", TOP}


def markdown_page(shown: Sequence[Table]) -> str:
    """Tables as Markdown, one heading each."""
    lines = []
    for table in shown:
        meaning = table.meaning[:1].upper() + table.meaning[1:]
        lines += [f"## {table.title}", "", f"{meaning}.", ""]
        lines += ["| key | type | default | unit and meaning |", "|---|---|---|---|"]
        for key in table.keys:
            cells = [f"`{key.name}`", key.type, f"`{key.default}`", key.meaning]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _print(shown: Sequence[Table]) -> None:
    import rich.table
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    for table in shown:
        columns = ("key", "type", "default", "unit and meaning")
        drawn = rich.table.Table(*columns, title=table.title, title_justify="left", expand=True)
        drawn.columns[0].no_wrap = True
        for key in table.keys:
            cells = (key.name, key.type, key.default, key.meaning)
            drawn.add_row(*(escape(cell) for cell in cells))
        console.print(drawn)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the keys.

    Raises:
        UserError: there is no such section.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.config",
        description="Print every key of the configuration with its type, default, unit and meaning.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "section",
        nargs="?",
        help="a section (data), a part of one (data.paste) or a component (minkunet); default: all",
    )
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    shown = chosen(args.section)
    if not args.markdown:
        _print(shown)
        return
    if args.section is None:
        sys.stdout.write(f"{INTRODUCTION}\n")
    sys.stdout.write(markdown_page(shown))


def command() -> None:
    """Run as a command: errors are one paragraph, and have their exit code."""
    run_command(main)
