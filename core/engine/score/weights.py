"""Where a trained network comes from: a run folder, a checkpoint, or an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.engine.run.checkpoint import find_checkpoint, read_checkpoint
from core.engine.run.exported import read_exported

__all__ = ["TrainedNetwork", "read_network"]


@dataclass(frozen=True)
class TrainedNetwork:
    """A network's weights and what they belong to.

    Attributes:
        path: the file. weights: by name. config: the tree it was trained with, None where the file has none.
        classes: of its label space; fingerprint: of that, None in a file of others.
        sensor: what its training scans show of their scanner, None in older files.
    """

    path: Path
    weights: dict[str, Tensor]
    config: dict[str, Any] | None
    classes: tuple[str, ...]
    fingerprint: str | None
    sensor: dict[str, Any] | None


def read_network(path: Path) -> TrainedNetwork:
    """Read a run folder's best checkpoint, a checkpoint, or an exported ``.safetensors``.

    Raises:
        UserError: the file is missing, damaged, or not made by this project.
    """
    if path.suffix == ".safetensors":
        weights, identity = read_exported(path)
    else:
        path = find_checkpoint(path, "Segmenter.load")
        state = read_checkpoint(path)
        weights, identity = state["model"], state.get("identity") or {}
    return TrainedNetwork(
        path,
        weights,
        identity.get("config"),
        tuple(identity.get("classes", ())),
        identity.get("fingerprint"),
        identity.get("sensor"),
    )
