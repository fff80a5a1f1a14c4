"""Which files make a configuration, and in which order they are merged."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.config.strict_yaml import read_yaml
from core.config.tree import Config
from core.errors import UserError

__all__ = ["default_files", "load_config"]

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIGS = "configs"
DEFAULT = "default.yaml"
BASE = "base"
RUN_CONFIG = "config.yaml"  # what a run writes into its folder


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file with all it builds on, and apply command-line overrides.

    Args:
        path: also the folder of a run, which holds one.

    Raises:
        UserError: the file or one of its bases is missing, is not YAML, holds a key twice, or comes back to itself; or
            an override has no value.
    """
    path = Path(path)
    if (path / RUN_CONFIG).is_file():
        path = path / RUN_CONFIG
    if not path.is_file():
        raise _no_such_file("this configuration file does not exist", str(path), path)
    config = Config(source=_shown(path.resolve()))
    _Merger(config).add(path.resolve())
    config.override(overrides)
    return config


def default_files(path: Path) -> list[Path]:
    """The ``default.yaml`` files that exist for the file at ``path`` (absolute), outermost first, without itself."""
    folder = path.parent
    folders = [folder]
    if CONFIGS in folder.parts:
        while folders[-1].name != CONFIGS:
            folders.append(folders[-1].parent)
    defaults = []
    for folder in reversed(folders):
        default = folder / DEFAULT
        if default.is_file() and default != path:
            defaults.append(default)
    return defaults


class _Merger:
    """Merges files into a configuration, each once: where it is first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.merged: set[Path] = set()
        self.unfinished: list[Path] = []

    def add(self, path: Path) -> None:
        """Merge what a file's folders share, then the file."""
        for default in default_files(path):
            self._merge(default)
        self._merge(path)

    def _merge(self, path: Path) -> None:
        if path in self.merged:
            return
        if path in self.unfinished:
            raise self._circle(path)
        self.unfinished.append(path)
        values = _read_mapping(path)
        for base in _bases(values.pop(BASE, []), path):
            self.add(base)
        self.config.merge(values, _shown(path))
        self.unfinished.pop()
        self.merged.add(path)

    def _circle(self, path: Path) -> UserError:
        circle = [*self.unfinished[self.unfinished.index(path) :], path]
        way = " -> ".join(_shown(file) for file in circle)
        return UserError(
            f"these files build on each other in a circle: {way}",
            where=f"{_shown(self.unfinished[-1])}, key '{BASE}'",
            cure=f"Take one {BASE} out; the {DEFAULT} of a folder counts as a base of every file below it",
        )


def _bases(value: object, path: Path) -> list[Path]:
    """The files that ``base:`` names in the file at ``path``."""
    where = f"{_shown(path)}, key '{BASE}'"
    names = value
    if isinstance(value, str):
        names = [value]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"expected a path or a list of paths, found {value!r}",
            where=where,
            cure=f"Write them relative to this file, e.g. {BASE}: ../recipes/u2mkd.yaml",
        )
    files = []
    for name in names:
        base = (path.parent / name).resolve()
        if not base.is_file():
            raise _no_such_file(f"the file '{name}' ({_shown(base)}) does not exist", where, base)
        files.append(base)
    return files


def _read_mapping(path: Path) -> dict[str, Any]:
    value = read_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        found = type(value).__name__
        raise UserError(f"expected 'key: value' lines, found {found}", where=_shown(path))
    return value


def _shown(path: Path) -> str:
    """An absolute path as a person would type it: relative to the working directory if it lies below."""
    here = Path.cwd()
    if path.is_relative_to(here):
        path = path.relative_to(here)
    return str(path)


def _no_such_file(what: str, where: str, path: Path) -> UserError:
    """The error for a path at which no file is, with the most similar path of the checkout."""
    known = {file.relative_to(CHECKOUT).as_posix(): file for file in _shipped_files()}
    wanted = path.as_posix()
    if CONFIGS in path.parts:
        wanted = "/".join(path.parts[path.parts.index(CONFIGS) :])
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    if near:
        return UserError(what, where=where, cure=f"Did you mean {_shown(known[near[0]])}?")
    return UserError(what, where=where, cure=f"See {_shown(CHECKOUT / CONFIGS)} for what exists")


def _shipped_files() -> list[Path]:
    return sorted((CHECKOUT / CONFIGS).rglob("*.yaml"))
