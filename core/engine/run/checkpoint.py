"""Reading of checkpoints: hashes compared, weights into models, generators of random numbers.

What a run's folder of checkpoints holds: :mod:`core.engine.run.store`.
"""

from __future__ import annotations

import difflib
import os
import pickle
import random
import struct
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import nn

from core.decode import read_json
from core.errors import UserError
from core.io import sha256
from core.models import adapt

__all__ = [
    "BEST",
    "LAST",
    "OLD_BEST",
    "find_checkpoint",
    "load_weights",
    "random_state",
    "read_checkpoint",
    "read_hashed",
    "read_manifest",
    "restore_random_state",
    "unpickled",
]

LAST = "last.pt"
BEST = "best.pt"
OLD_BEST = "max-iou-val-vox.pt"  # of runs before there was best.pt, and of people's scripts
MANIFEST = "manifest.json"
EXPORTED = ".safetensors"


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
    manifest = read_manifest(folder)
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


@dataclass(frozen=True)
class _Entry:
    """What the manifest says of a file."""

    sha256: str
    step: int


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> {sha256, step}; empty before the first save, and where the file is lost or damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        entries = read_json(path, dict[str, _Entry])
    except UserError as error:
        logger.warning("{}", error)
        return {}
    return {name: asdict(entry) for name, entry in entries.items()}


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
    state = unpickled(path)
    if expected is None:
        _compare_checksums(path)
    if not isinstance(state, dict) or "model" not in state:
        raise UserError(
            "this file holds no 'model' entry, so it is no checkpoint of this project",
            where=str(path),
        )
    for key in ("model", "training_only"):
        _check_tensors(state.get(key) or {}, key, path)
    return state, found


def _check_tensors(weights: object, key: str, path: Path) -> None:
    """Refuse what is not tensors by name."""
    wrong: list[object] = [weights]
    if isinstance(weights, dict):
        wrong = []
        for name, value in weights.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                wrong.append(name)
    if wrong:
        raise UserError(
            f"the entry '{key}' holds something else than tensors by name ({wrong[0]!r:.100})",
            where=str(path),
            cure="The file is damaged or was altered; use another checkpoint of the run",
        )


def _expected_hash(path: Path) -> str | None:
    """What the manifest beside a checkpoint says of it; None where it says nothing."""
    manifest = read_manifest(path.parent)
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
    for name, entry in read_manifest(path.parent).items():
        file = path.parent / name
        if file.is_file() and sha256(file) == entry["sha256"]:
            whole.append(f"{name} (step {entry['step']})")
    if whole:
        return f"Whole and beside it: {', '.join(whole)}; or copy this one again"
    return "Copy it again, or train again with another --run-dir"


def unpickled(path: Path) -> Any:
    """Load a file of ``torch.save`` on the CPU, without a look at its hash.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(
            f"this checkpoint is damaged, cut short, or not made by this project ({type(error).__name__} on reading)",
            where=str(path),
            cure="Use another checkpoint of the run, or train again; what other projects published comes in with: "
            "python -m core.engine.exchange import",
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
