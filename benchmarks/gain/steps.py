"""Jobs of an experiment: what each depends on, its identity by content, and the folder it is kept in."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from benchmarks.gain.experiment import ROOT
from core.config import Config, load_config
from core.datasets.base import MANIFEST
from core.decode import read_json
from core.errors import UserError
from core.io import sha256, write_json

__all__ = ["Job", "Made", "option_words", "resolved"]

_DONE = "done.json"  # in a job's folder, written last


@dataclass(frozen=True)
class Made:
    """Where a job's command finds what another one made.

    Attributes:
        option: of the command, or a dotted key. job: that made it. inside: path in its folder.
    """

    option: str
    job: Job
    inside: str = ""


@dataclass(frozen=True)
class Job:
    """One command with a folder of its own.

    Attributes:
        name: for a person; the folder begins with it. root: of all folders, absolute.
        script: of the project. config: YAML. options: of the command, ``{folder}`` stands for the job's own.
        settings: dotted keys that the command overrides. uses: what it needs from others.
        given: a folder that was made elsewhere; then nothing is run.
    """

    name: str
    root: Path
    script: str
    config: Path
    options: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    uses: tuple[Made, ...] = ()
    given: Path | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on but the code: settings as resolved, worlds and others' identities."""
        if self.given is not None:
            from core.engine.run.checkpoint import find_checkpoint

            return {"sha256": sha256(find_checkpoint(self.given, "--teacher"))}
        tree = resolved(self.config, dict(self.settings))
        options = [word for word in self.options if "{folder}" not in word]
        uses = {made.option: [made.job.digest, made.inside] for made in self.uses}
        return {"script": self.script, "options": options, "config": _stamped(tree), "uses": uses}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity, its first twelve digits."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def folder(self) -> Path:
        """Where the result is; a folder of the same identity under another name is this one."""
        if self.given is not None:
            return self.given
        for found in sorted(self.root.glob(f"*-{self.digest}")):
            return found
        return self.root / f"{self.name}-{self.digest}"

    @property
    def command(self) -> list[str]:
        """Words after ``python``."""
        words = [self.script, str(self.config)]
        words += [word.replace("{folder}", _from_root(self.folder)) for word in self.options]
        words += option_words(dict(self.settings))
        for made in self.uses:
            words += [f"--{made.option}", _from_root(made.job.folder / made.inside)]
        return words

    @property
    def line(self) -> str:
        """The command as one copies it."""
        return shlex.join(["python", *self.command])

    @property
    def done(self) -> bool:
        """The result is there.

        Raises:
            UserError: the folder was made by a job of another identity.
        """
        if self.given is not None:
            return True
        path = self.folder / _DONE
        if not path.is_file():
            return False
        made = read_json(path, dict[str, Any])
        if made.get("identity") != json.loads(json.dumps(self.identity, default=str)):
            raise UserError(
                "this folder was made by another job",
                where=str(path),
                cure="Choose another --folder, or delete this one",
            )
        return True

    def finish(self, seconds: float, made: Mapping[str, str]) -> None:
        """Write down that the result is whole.

        Args:
            made: :func:`core.engine.run.provenance.provenance` at its begin, since the code may change meanwhile.
        """
        known = {"line": self.line, "seconds": seconds, "identity": self.identity}
        write_json(self.folder / _DONE, dict(made) | known)

    @property
    def record(self) -> dict[str, Any]:
        """What :meth:`finish` wrote; empty where the result was given."""
        if self.given is not None:
            return {}
        found: dict[str, Any] = read_json(self.folder / _DONE, dict[str, Any])
        return found

    @property
    def program(self) -> list[str]:
        """The command for this interpreter."""
        script, *words = self.command
        return [sys.executable, str(ROOT / script), *words]


@lru_cache
def _as_shipped(path: Path) -> Config:
    return load_config(path)


def resolved(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The merged tree of a configuration with these keys over it.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    config = deepcopy(_as_shipped(ROOT / path))
    config.override(option_words(settings))
    return config.tree


def _from_root(path: Path) -> str:
    """The path as commands are told it, which run in the project's root."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def option_words(settings: Mapping[str, Any]) -> list[str]:
    """``--key value`` of each setting, values as YAML."""
    words = []
    for key, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        words += [f"--{key}", text]
    return words


def _stamped(value: Any) -> Any:
    """The tree with what a file holds, or a synthetic world was made from, in place of its path."""
    if isinstance(value, Mapping):
        return {str(key): _stamped(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_stamped(part) for part in value]
    if not isinstance(value, str):
        return value
    for path in (ROOT / value / MANIFEST, ROOT / value):
        if path.is_file():
            return f"SHA-256 {sha256(path)}"
    return value
