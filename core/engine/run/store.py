"""The checkpoints of a run: atomic, hashed, with a fall-back to the one before.

``checkpoints/manifest.json`` is written last and names every finished file with its SHA-256 and step. The two newest
states are ``step-<n>.pt``; ``last.pt`` and ``best.pt`` are hard links to the newest and the best, and so is
``max-iou-val-vox.pt``, the former name of the best by mean IoU.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from core.engine.run.checkpoint import LAST, MANIFEST, read_checkpoint, read_manifest, unpickled
from core.errors import UserError
from core.io import atomic_path, cannot_write, sha256, write_json

__all__ = ["FINAL", "CheckpointStore", "write_final", "write_torch"]

FINAL = "model.pt"  # in the run folder
_STATE = re.compile(r"step-\d+\.pt")
_FILE = re.compile(r"[\w-]+\.pt")  # names that stay in the folder
_START_OVER = "Restore the files, or start over with another --run-dir"


class CheckpointStore:
    """The ``checkpoints`` folder of one run."""

    KEEP = 2  # newest states kept for resuming

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest_path = folder / MANIFEST

    def manifest(self) -> dict[str, dict[str, Any]]:
        """File name -> {sha256, step}; see :func:`read_manifest`."""
        return read_manifest(self.folder)

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
        found: dict[str, dict[str, Any]] = {}
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
        return None if path is None else (path, unpickled(path))


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


def write_final(checkpoint: Path, folder: Path) -> Path:
    """Write a run's weights as ``model.pt``, without optimiser and generators; the file.

    Args:
        checkpoint: whose weights. folder: of the run.

    Raises:
        UserError: the checkpoint is damaged, or the folder cannot be written.
    """
    state = read_checkpoint(checkpoint)
    kept = {key: state[key] for key in ("model", "training_only", "identity", "global_step")}
    write_torch(folder / FINAL, kept)
    return folder / FINAL


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
