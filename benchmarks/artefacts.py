"""What two checkouts wrote for the same job, compared bit for bit.

Every file becomes a table of named values: tensors of a checkpoint, numbers of a JSON file, members of a zip. Times,
paths and command lines are left out, for they differ from run to run; so are pages and pictures made for people.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

__all__ = ["Finding", "compare_files", "compare_folders", "compare_values", "read_values"]

Value = torch.Tensor | np.ndarray | bytes | str | int | float | bool
Values = dict[str, Value]

# Files of a run that are made for people, repeat another file, or hold paths and times.
IGNORED_FILES = (
    "*config.yaml",
    "*git.json",
    "*log/*",
    "*.log",
    "*tensorboard/*",
    "*.html",
    "*sheet.png",
    "*preview.png",
    "*.lidistill/*",
    "*checkpoints/manifest.json",
    "*checkpoints/step-*.pt",
    "*checkpoints/best.pt",
    "*.tmp",  # what a killed run was writing
)
# Keys whose values belong to one run alone; "settings" is a hash of the whole configuration.
IGNORED_KEYS = re.compile(
    r"(^|/)(seconds\w*|dataset|made_up|split_scans|trained_on|\w*time|command|commit|processor|date|"
    r"checkpoint|\w*sha256|config|settings|path|folder|root|created|source|absent|miou_official)(/|$)"
)
# First keys that older checkouts spell otherwise.
RENAMED = {"views": "subsets", "miou_by_view": "miou_by_subset"}
# Parts of a checkpoint that a continued run depends on.
CHECKPOINT_PARTS = re.compile(
    r"^(model|training_only|train_model|ema_updates|optimizer|scheduler|scaler|random|world_size|"
    r"nonfinite_steps|epoch_num|local_step|global_step|identity/(classes|fingerprint))(/|$)"
)
# Weights carry the name of the module that holds them; a method or a wrapper around it changes only that.
WEIGHTS = re.compile(r"^(?P<part>model|training_only|train_model)/(?:(?:module|student)\.)*")


@dataclass(frozen=True)
class Finding:
    """One compared file.

    Attributes:
        artefact: path below the job's folder.
        values: how many values were compared.
        difference: the first difference in words; None = equal.
    """

    artefact: str
    values: int
    difference: str | None = None


def compare_folders(old: Path, new: Path) -> list[Finding]:
    """Compare every file that either checkout wrote, but for :data:`IGNORED_FILES`.

    Args:
        old: folder of a job's outputs, written by the old checkout.
        new: the same by the new one.

    Returns:
        one finding per file, by name.
    """
    names = _files(old) | _files(new)
    findings = []
    for name in sorted(names):
        if not (new / name).is_file():
            findings.append(Finding(name, 0, "only the old checkout wrote it"))
        elif not (old / name).is_file():
            findings.append(Finding(name, 0, "only the new checkout wrote it"))
        else:
            findings.append(compare_files(old / name, new / name, name))
    return findings


def _files(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(fnmatch(name, pattern) for pattern in IGNORED_FILES):
            names.add(name)
    return names


def compare_files(old: Path, new: Path, name: str) -> Finding:
    """Compare two files of one kind, which their suffix tells."""
    a, b = read_values(old), read_values(new)
    return Finding(name, len(a), compare_values(a, b, more_allowed=_may_grow(old)))


def _may_grow(path: Path) -> bool:
    """Whether a new version may say more: a score file may, a prediction may not."""
    return path.suffix in (".json", ".jsonl", ".csv")


# --- reading --------------------------------------------------------------------------------------------------------
def read_values(path: Path) -> Values:
    """Read a file as a table of named values; a format that is not known is one value, its bytes."""
    readers = {
        ".pt": _checkpoint,
        ".safetensors": _safetensors,
        ".json": _json,
        ".jsonl": _json_lines,
        ".csv": _table,
        ".npy": _array,
        ".npz": _arrays,
        ".zip": _members,
    }
    reader = readers.get(path.suffix, _bytes)
    return reader(path)


def _checkpoint(path: Path) -> Values:
    state = torch.load(path, map_location="cpu", weights_only=True)
    values: Values = {}
    for name, value in _flat(state).items():
        if CHECKPOINT_PARTS.match(name):
            values[WEIGHTS.sub(r"\g<part>/", name)] = value
    return values


def _safetensors(path: Path) -> Values:
    with safe_open(path, "pt") as file:
        values: Values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    for name, text in metadata.items():
        values |= _flat(json.loads(text), f"metadata/{name}")
    return _without_ignored(values)


def _json(path: Path) -> Values:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        content = {RENAMED.get(key, key): value for key, value in content.items()}
    return _without_ignored(_flat(content))


def _json_lines(path: Path) -> Values:
    values: Values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        values |= _flat(json.loads(line), f"line {number}")
    return _without_ignored(values)


def _table(path: Path) -> Values:
    values: Values = {}
    with open(path, encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), 1):
            for column, cell in row.items():
                values[f"row {number}/{column}"] = cell or ""
    return _without_ignored(values)


def _array(path: Path) -> Values:
    return {"array": np.load(path, allow_pickle=False)}


def _arrays(path: Path) -> Values:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _members(path: Path) -> Values:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _bytes(path: Path) -> Values:
    return {"bytes": path.read_bytes()}


def _flat(tree: object, name: str = "") -> Values:
    """Nested mappings and lists as one table; empty ones and None leave no trace."""
    if tree is None:
        return {}
    if isinstance(tree, Mapping):
        children = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, (list, tuple)):
        children = [(str(place), value) for place, value in enumerate(tree)]
    elif isinstance(tree, Value):
        return {name: tree}
    else:
        raise TypeError(f"{name}: a {type(tree).__name__} cannot be compared")
    values: Values = {}
    for key, value in children:
        child = key
        if name:
            child = f"{name}/{key}"
        values |= _flat(value, child)
    return values


def _without_ignored(values: Values) -> Values:
    return {name: value for name, value in values.items() if not IGNORED_KEYS.search(name)}


# --- comparing ------------------------------------------------------------------------------------------------------
def compare_values(old: Values, new: Values, *, more_allowed: bool = False) -> str | None:
    """Compare two tables bit for bit.

    Args:
        old: values by name.
        new: the same from the other checkout.
        more_allowed: names that only ``new`` has are no difference.

    Returns:
        how many values differ and the first of them in words; None = equal.
    """
    differences = []
    for name, value in old.items():
        if name not in new:
            differences.append(f"{name} is missing")
        elif not _same(value, new[name]):
            differences.append(f"{name}: {_describe(value, new[name])}")
    added = new.keys() - old.keys()
    if added and not more_allowed:
        differences.extend(f"{name} is new" for name in sorted(added))
    if not differences:
        return None
    return f"{len(differences)} of {len(old)} values differ; first {differences[0]}"


def _same(a: Value, b: Value) -> bool:
    a, b = _plain(a), _plain(b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    return type(a) is type(b) and bool(a == b)


def _plain(value: Value) -> Value:
    """A tensor as an array of the same bytes."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        value = value.view(torch.int16)
    return value.contiguous().numpy()


def _describe(a: Value, b: Value) -> str:
    """The difference of two values in words."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return f"{a!r} became {b!r} (|Δ| {abs(a - b):.3g})"
    if isinstance(a, (np.ndarray, torch.Tensor)) and isinstance(b, (np.ndarray, torch.Tensor)):
        return _describe_arrays(torch.as_tensor(a), torch.as_tensor(b))
    if isinstance(a, bytes) and isinstance(b, bytes):
        return _describe_bytes(a, b)
    return f"{a!r} became {b!r}"


def _describe_arrays(a: torch.Tensor, b: torch.Tensor) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} became {b.dtype} {tuple(b.shape)}"
    gap = (a.double() - b.double()).abs()
    largest = gap.nan_to_num(nan=float("inf")).max().item()
    return f"{int((gap != 0).sum())} of {gap.numel()} numbers, max |Δ| {largest:.3g}"


def _describe_bytes(a: bytes, b: bytes) -> str:
    if len(a) != len(b):
        return f"{len(a)} bytes became {len(b)}"
    unequal = np.flatnonzero(np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8))
    return f"{len(unequal)} of {len(a)} bytes, the first at {unequal[0]}"
