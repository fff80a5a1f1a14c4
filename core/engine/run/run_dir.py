"""A run directory: what is in it, who may write to it, and whether a configuration belongs to it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import torch
from loguru import logger

from core.config import Config, read_yaml
from core.decode import read_json_lines
from core.engine.run.checkpoint import find_checkpoint
from core.engine.run.distributed import World
from core.engine.run.store import CheckpointStore
from core.errors import UserError
from core.io import appending, cannot_write, write_json, write_text
from core.machine import processor_name

__all__ = ["RunDir", "default_run_dir", "git_state"]

# changing these between a start and its continuation alters no result
_FREE_KEYS = (
    *(
        "workers_per_gpu",
        "eval.pictures",
        "train.save_every",
        "train.save_epochs",
        "train.title",
        "train.max_nonfinite_steps",
        "dataset.root",
        "dataset.partial",
    ),
    *("teacher_pretrain", "teacher.cache"),  # the teacher itself is compared by its hash
    "amp.enabled",  # what it means on a machine is compared by the checkpoint's number type
)
_LENGTH = ("num_epochs", "train.steps")


def default_run_dir(config: Config, config_path: str) -> Path:
    """``runs/`` and the config file's path below ``configs/``; of a file elsewhere, ``runs/<dataset>/<its name>``."""
    parts = Path(config_path).resolve().with_suffix("").parts
    if "configs" in parts[:-2]:
        return Path("runs", *parts[len(parts) - parts[::-1].index("configs") :])
    dataset = str(config.tree.get("dataset", {}).get("name", "unknown"))
    return Path("runs") / dataset / parts[-1]


def git_state() -> dict[str, Any]:
    """Commit and cleanliness of the code, empty where git or a checkout is missing."""
    root = Path(__file__).resolve().parents[3]

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return result.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return {} if commit is None else {"commit": commit, "dirty": bool(git("status", "--porcelain"))}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, name + ".")
        else:
            flat[name] = value
    return flat


class _LogFile:
    """A log that a full disk ends with one line, while the run, whose checkpoints it stops too, goes its way.

    Raises:
        UserError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with appending(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.stream: IO[bytes] | None = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, message: str) -> None:
        """Write one message; called by the logger."""
        if self.stream is None:
            return
        try:
            self.stream.write(message.encode(errors="surrogateescape"))
        except OSError as error:
            self.stream = None
            sys.stderr.write(f"the log ends here: {cannot_write(self.path, error)}\n")


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @property
    def checkpoints(self) -> CheckpointStore:
        """The run's checkpoints."""
        return CheckpointStore(self.path / "checkpoints")

    def best(self) -> Path:
        """The best checkpoint so far, by ``eval.select``.

        Raises:
            UserError: there is none yet.
        """
        return find_checkpoint(self.path, "the run folder")

    @property
    def scalars(self) -> Path:
        """One JSON object per step and per epoch."""
        return self.path / "scalars.jsonl"

    def open(self, config: Config, world: World) -> None:
        """Create the folder, or check that it holds this very configuration; start this rank's log file.

        Raises:
            UserError: another configuration has been trained here.
        """
        saved = self.path / "config.yaml"
        if self.checkpoints.started():
            self._compare(saved, config)
        if world.rank == 0:
            self.checkpoints.tidy()
            config.dump(saved)
            write_json(
                self.path / "git.json",
                git_state()
                | {
                    "torch": torch.__version__,
                    "command": sys.argv,
                    "processor": processor_name(),
                },
            )
        suffix = f"_{world.rank:04d}" if world.size > 1 else ""
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}{suffix}.log"
        logger.add(_LogFile(self.path / "log" / name), level="DEBUG")

    def _compare(self, saved: Path, config: Config) -> None:
        """Raise where a configuration is another than the saved one of this folder, which has checkpoints."""
        tree = read_yaml(saved) if saved.is_file() else self._trained_with()
        if not isinstance(tree, dict):
            raise UserError(
                "this is not the configuration of a run",
                where=str(saved),
                cure="Restore it, choose another --run-dir, or delete this folder to start over",
            )
        old, new = flatten(tree), flatten(config.tree)
        differing = [
            f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in _FREE_KEYS
        ]
        if differing:
            more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
            cure = "Choose another --run-dir, or delete this one to start over"
            if any(old.get(key) != new.get(key) for key in _LENGTH):
                cure += f"; for more epochs go on from these weights: --train.init_from {self.path}"
            raise UserError(
                f"this run folder was started with another configuration: {'; '.join(differing[:4])}{more}",
                where=str(self.path),
                cure=cure,
            )

    def _trained_with(self) -> Any:
        """The configuration that the newest checkpoint keeps, where the run's own file is lost."""
        found = self.checkpoints.newest()
        state = {} if found is None else found[1]
        tree = state.get("identity", {}).get("config")
        if tree is not None:
            logger.warning("{} has lost its config.yaml; the checkpoint's is compared", self.path)
        return tree

    def history(self) -> list[dict[str, int | float]]:
        """The lines of ``scalars.jsonl``; one cut short by a kill or damaged is left out with a warning."""
        if not self.scalars.is_file():
            return []
        lines, damaged = read_json_lines(self.scalars, dict[str, int | float])
        records = [record for record in lines if "global_step" in record]
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            logger.warning("{}: {}{}; left out", self.scalars, damaged[0], more)
        return records

    def rewind(self, step: int) -> None:
        """Drop scalars written after the checkpoint a run continues from."""
        records = self.history()
        if step and not any(record["global_step"] == step for record in records):
            logger.warning("{} lacks steps up to {}: charts will not show them", self.scalars, step)
        kept = [record for record in records if record["global_step"] <= step]
        if self.scalars.is_file():
            write_text(self.scalars, "".join(json.dumps(record) + "\n" for record in kept))
