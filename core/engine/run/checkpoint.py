"""Checkpoints: atomic, hashed, verified on load, with a fall-back to the one before.

``checkpoints/manifest.json`` is written last and names every finished file with its SHA-256 and step. The two newest
states are ``step-<n>.pt``; ``last.pt`` and ``best.pt`` are hard links to the newest and the best, and so is
``max-iou-val-vox.pt``, the former name of the best by mean IoU.
"""

from __future__ import annotations

import difflib
import io
import os
import pickle
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import nn

from core.decode import read_json
from core.errors import UserError
from core.io import atomic_path, cannot_write, sha256, write_json
from core.models import adapt

__all__ = [
    "BEST",
    "LAST",
    "OLD_BEST",
    "CheckpointStore",
    "find_checkpoint",
    "load_weights",
    "random_state",
    "read_checkpoint",
    "read_hashed",
    "restore_random_state",
    "write_torch",
]

LAST = "last.pt"
BEST = "best.pt"
OLD_BEST = "max-iou-val-vox.pt"  # of runs before there was best.pt, and of people's scripts
MANIFEST = "manifest.json"
EXPORTED = ".safetensors"

_STATE = re.compile(r"step-\d+\.pt")
_FILE = re.compile(r"[\w-]+\.pt")  # names that stay in the folder
_START_OVER = "Restore the files, or start over with another --run-dir"

_UNREADABLE = (  # whatever torch's unpickler meets in damaged bytes
    *(
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
    ),
    *(zipfile.BadZipFile, pickle.UnpicklingError, struct.error, MemoryError, OSError),
)


def find_checkpoint(path: Path, where: str) -> Path:
    """``path`` itself, or the best checkpoint of a run folder or of its ``checkpoints`` folder.

    Args:
        path: also an exported ``.safetensors``.
        where: the key or option that gave the path, for the error.

    Raises:
        UserError: there is no such file, or none in the folder; names those that are there.
    """
    if path.is_file():
        return path
    folders = [path / "checkpoints", path]
    for folder in folders if path.is_dir() else ():
        for name in (BEST, OLD_BEST):
            if (folder / name).is_file():
                return folder / name
    raise UserError(_missing(path), where=f"{path}, {where}", cure=_instead(path))


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"this folder has no checkpoints/{BEST}"
    return "no such file or folder: this checkpoint does not exist"


def _instead(path: Path) -> str:
    """What a person may have meant by a path without a checkpoint."""
    folder = path.parent
    if path.is_dir():
        folder = path
    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    there = _described(folder)
    if not there:
        return "Give the folder of a run, or a file under its checkpoints/; a run has one after its first epoch"
    near = difflib.get_close_matches(path.name, there, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}{folder} has {', '.join(there.values())}; the run's folder stands for its best"


def _described(folder: Path) -> dict[str, str]:
    """Name of each file with weights -> the name with the step it was saved at and, where it is known, its score."""
    manifest = CheckpointStore(folder).manifest()
    score = _score_of(folder.parent)
    described = {}
    for file in sorted(folder.glob("*")):
        if file.suffix not in (".pt", EXPORTED):
            continue
        known = []
        entry = manifest.get(file.name)
        if entry is not None:
            known.append(f"step {entry['step']}")
            if entry["sha256"] == score.get("checkpoint_sha256"):
                known.append(f"{score['miou']:.2f} mIoU")
        described[file.name] = file.name
        if known:
            described[file.name] = f"{file.name} ({', '.join(known)})"
    return described


def _score_of(run: Path) -> dict[str, Any]:
    """The run's own score, empty where there is none to be read: it serves a message alone."""
    path = run / "evaluation-val.json"
    try:
        score = read_json(path)
    except UserError:
        return {}
    if not isinstance(score, dict) or not isinstance(score.get("miou"), float):
        return {}
    return score


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint on the CPU; see :func:`read_hashed`."""
    return read_hashed(path)[0]


def read_hashed(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Load a checkpoint on the CPU, and compute its SHA-256; only tensors and plain values are ever unpickled.

    The hash is compared with the one in the manifest beside the file. A file without one is compared with the checksums
    that it holds itself.

    Raises:
        UserError: the file is missing, damaged, cut short, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            "this checkpoint does not exist",
            where=str(path),
            cure="Check the path; runs keep theirs under checkpoints/",
        )
    found, expected = sha256(path), _expected_hash(path)
    if expected not in (None, found):
        raise UserError(
            f"this checkpoint is damaged: its SHA-256 is not the one in {MANIFEST}",
            where=str(path),
            cure=_whole_ones(path),
        )
    state = _unpickled(path)
    if expected is None:
        _compare_checksums(path)
    if not isinstance(state, dict) or "model" not in state:
        raise UserError(
            "this file holds no 'model' entry, so it is no checkpoint of this project",
            where=str(path),
        )
    return state, found


def _expected_hash(path: Path) -> str | None:
    """What the manifest beside a checkpoint says of it; None where it says nothing."""
    manifest = CheckpointStore(path.parent).manifest()
    entry = manifest.get(path.name)
    if entry is None:
        return None
    for state in path.parent.glob("step-*.pt"):
        # a kill between a link and the manifest leaves a name at a state that the manifest does not know yet
        if state.name not in manifest and state.samefile(path):
            return None
    return str(entry["sha256"])


def _whole_ones(path: Path) -> str:
    """What to use in place of a damaged checkpoint."""
    whole = []
    for name, entry in CheckpointStore(path.parent).manifest().items():
        file = path.parent / name
        if file.is_file() and sha256(file) == entry["sha256"]:
            whole.append(f"{name} (step {entry['step']})")
    if whole:
        return f"Whole and beside it: {', '.join(whole)}; or copy this one again"
    return "Copy it again, or train again with another --run-dir"


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(
            f"this checkpoint is damaged, cut short, or not made by this project ({type(error).__name__} on reading)",
            where=str(path),
            cure="Use another checkpoint of the run, or train again",
        ) from error


def _compare_checksums(path: Path) -> None:
    """Refuse a zip with a member whose CRC-32 is not the one it was written with; torch does not look."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except _UNREADABLE as error:
        damaged = str(error)
    if damaged is not None:
        raise UserError(
            f"this checkpoint is damaged: the checksum of its part {damaged} is wrong",
            where=str(path),
            cure="Copy it again, or use another one",
        )


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], where: str) -> None:
    """Load weights strictly, into a model of the form they have where it was another in an earlier version.

    Raises:
        UserError: names the keys that are missing, unknown, of another shape, or not finite; the model's values are
            untouched.
    """
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    adapt(model, weights)
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(weights[key].shape)} in the file and {tuple(own[key].shape)} in the model"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    if missing or unknown or shapes:
        parts = [
            _count("missing", missing),
            _count("unknown", unknown),
            _count("of another shape", shapes),
        ]
        raise UserError(
            f"these weights belong to another model: {'; '.join(filter(None, parts))}",
            where=where,
            cure="Give the configuration it was trained with (config.yaml in its run folder)",
        )
    _check_finite(weights, where)
    model.load_state_dict(weights)


def _check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    broken = []
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            broken.append(name)
    if broken:
        raise UserError(
            f"some weights are NaN or infinite: {_count('of them', broken)}",
            where=where,
            cure="Use an earlier checkpoint; the training that saved this one had diverged",
        )


def _count(kind: str, keys: list[str], shown: int = 3) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:shown])}{more})" if keys else ""


def random_state() -> dict[str, Any]:
    """The generators of Python, NumPy, torch and this rank's GPU, as tensors and plain values."""
    version, python_words, gauss = random.getstate()
    name, words, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": (version, list(python_words), gauss),
        "numpy": (name, np.asarray(words).tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo of :func:`random_state`."""
    version, python_words, gauss = state["python"]
    random.setstate((version, tuple(python_words), gauss))
    name, words, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@dataclass(frozen=True)
class _Entry:
    """What the manifest says of a file."""

    sha256: str
    step: int


class CheckpointStore:
    """The ``checkpoints`` folder of one run."""

    KEEP = 2  # newest states kept for resuming

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest_path = folder / MANIFEST

    def manifest(self) -> dict[str, dict[str, Any]]:
        """File name -> {sha256, step}; empty before the first save, and where the file is lost or damaged."""
        if not self.manifest_path.is_file():
            return {}
        try:
            entries = read_json(self.manifest_path, dict[str, _Entry])
        except UserError as error:
            logger.warning("{}", error)
            return {}
        return {name: asdict(entry) for name, entry in entries.items()}

    def started(self) -> bool:
        """Whether anything has been saved here."""
        return bool(self._files())

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"))

    def save(self, state: dict[str, Any], best: Sequence[str] = ()) -> Path:
        """Write ``step-<n>.pt``, enter it in the manifest, point ``last.pt`` at it, drop old ones.

        Args:
            best: more names that shall point at it.

        Raises:
            UserError: disk full or folder not writable; everything saved before is still there.
        """
        self.tidy()
        path = self.folder / f"step-{state['global_step']:08d}.pt"
        write_torch(path, state)
        entry = {"sha256": sha256(path), "step": state["global_step"]}
        manifest = self.manifest()
        names = [path.name, LAST, *best]
        for name in names[1:]:
            _link(path, self.folder / name)
        manifest |= dict.fromkeys(names, entry)
        for name in sorted(filter(_STATE.fullmatch, manifest))[: -self.KEEP]:
            del manifest[name]
        write_json(self.manifest_path, manifest)
        self._drop_old(manifest)
        return path

    def tidy(self) -> None:
        """Mend what a kill or a lost file left behind; nobody else may write here now.

        A lost or damaged manifest is written anew from the checkpoints that can be read, a lost link is made again,
        and old states that the manifest does not name are removed.

        Raises:
            UserError: there are checkpoints, but no manifest, and none of them can be read.
        """
        if not self.started():
            return
        manifest = self.manifest()
        if not manifest:
            manifest = self._found()
            write_json(self.manifest_path, manifest)
        for name, entry in manifest.items():
            if _FILE.fullmatch(name) and not (self.folder / name).is_file():
                self._restore(name, entry, manifest)
        self._drop_old(manifest)

    def _found(self) -> dict[str, dict[str, Any]]:
        """A manifest of what can be read."""
        found = {}
        for path in self._files():
            step = _step_of(path)
            if step is not None:
                found[path.name] = {"sha256": sha256(path), "step": step}
        if not found:
            raise UserError(
                f"manifest.json is lost or damaged, and none of the {len(self._files())} checkpoints can be read",
                where=str(self.folder),
                cure=_START_OVER,
            )
        newest = max(entry["step"] for entry in found.values())
        logger.warning(
            "{} is lost or damaged; written anew from the checkpoints themselves, of which {} can be read (step {})",
            self.manifest_path,
            len(found),
            newest,
        )
        return found

    def _restore(
        self, name: str, entry: dict[str, Any], manifest: dict[str, dict[str, Any]]
    ) -> None:
        """Make a lost file again from another one that the manifest says is the same."""
        for other, known in manifest.items():
            same = _FILE.fullmatch(other) and known["sha256"] == entry["sha256"]
            if same and (self.folder / other).is_file():
                _link(self.folder / other, self.folder / name)
                return

    def _drop_old(self, manifest: dict[str, dict[str, Any]]) -> None:
        """Remove states that are older than the newest and not named."""
        states = sorted(filter(_STATE.fullmatch, manifest))
        for path in self._files():
            old = _STATE.fullmatch(path.name) and states and path.name < states[-1]
            if old and path.name not in manifest:
                path.unlink(missing_ok=True)

    def newest_path(self) -> Path | None:
        """The newest whole checkpoint, or None in an empty folder; a damaged one is reported, the one before is used.

        Raises:
            UserError: checkpoints exist, but none is whole.
        """
        manifest = self.manifest()
        names = list(manifest) or [path.name for path in self._files()]
        complaints: list[str] = []
        candidates = sorted(filter(_STATE.fullmatch, names), reverse=True)
        for name in [*candidates, *(name for name in names if name == LAST)]:
            path = self.folder / name
            if _is_whole(path, manifest.get(name)):
                if complaints:
                    logger.warning("{}; going on from {} instead", "; ".join(complaints), path)
                return path
            complaints.append(
                f"{path} is damaged or missing (its SHA-256 is not the one in manifest.json)"
            )
        if complaints or self.started():
            raise UserError(
                "; ".join(complaints) or f"{self.folder} holds no state to go on from",
                cure=_START_OVER,
            )
        return None

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """:meth:`newest_path`, with what it holds."""
        path = self.newest_path()
        return None if path is None else (path, _unpickled(path))


def _is_whole(path: Path, entry: dict[str, Any] | None) -> bool:
    """Whether a file is the one of the manifest; without an entry, whether it can be read."""
    if not path.is_file():
        return False
    if entry is None:
        return _step_of(path) is not None
    return bool(sha256(path) == entry["sha256"])


def _step_of(path: Path) -> int | None:
    """The step that a checkpoint was saved at, None = it cannot be read."""
    try:
        step = read_checkpoint(path).get("global_step")
    except UserError:
        return None
    return step if isinstance(step, int) else None


class _Watched(io.FileIO):
    """A file that keeps the error of a failed write, which torch reports as a RuntimeError like any other."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        try:
            rest = memoryview(data).cast("B")
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.fault = error
            raise
        return len(data)


def write_torch(path: Path, value: object) -> None:
    """Write a file of ``torch.save``, whole or not at all.

    Raises:
        UserError: disk full or folder not writable.
    """
    # by name, torch would write the temporary file's random name into it
    with atomic_path(path) as temporary, _Watched(temporary, "w") as stream:
        try:
            torch.save(value, stream)
        except RuntimeError as error:
            if stream.fault is None:
                raise
            raise cannot_write(path, stream.fault) from error


def _link(source: Path, target: Path) -> None:
    """Atomically make ``target`` the same file as ``source``; a copy on file systems without hard links."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
