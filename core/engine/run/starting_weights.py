"""``train.init_from``: a run begins with the weights of another one (fine-tuning), its schedule from the first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loguru import logger
from torch import Tensor, nn

from core.data import DataConfig
from core.distill import Method
from core.distill.base import STUDENT, check_beginnings
from core.engine.run.adopted import Change
from core.engine.run.checkpoint import load_weights
from core.engine.run.trained import TrainedNetwork, read_network

__all__ = ["KEY", "start_from", "warn_of_other_cells"]

KEY = "train.init_from"


def start_from(method: Method, path: Path, skipped: Sequence[str] = ()) -> TrainedNetwork:
    """Load a checkpoint's weights into what is about to be trained.

    What learned beside the student is taken over too, if both the method and the checkpoint have it; otherwise the
    student alone is loaded.

    Args:
        path: checkpoint, run folder (its best one), or exported file.
        skipped: beginnings of names that keep their random start, e.g. ``head.`` where the classes differ.

    Returns:
        what was read.

    Raises:
        UserError: the checkpoint is missing, damaged or of another network, or ``skipped`` names nothing in it.
    """
    found = read_network(path, f"key '{KEY}'")
    given, target = found.weights, method.deployed
    if found.training_only and method.training_state():
        given, target = method.joined_state(given, found.training_only), method
    _load_but(target, given, tuple(skipped), found.path)
    return found


def warn_of_other_cells(found: TrainedNetwork, data: DataConfig) -> None:
    """Warn where a run's cells or features are others than those its first weights were trained on.

    SLidR's fine-tuning refuses that; going on at another resolution may be meant.

    Args:
        found: what the run begins with. data: the run's section.
    """
    if found.tree is None:
        return
    before, now = found.config.parse(DataConfig, "data").view(), data.view()
    differing = []
    for key in ("voxel_size", "partition", "features"):
        if before.get(key) != now.get(key):
            differing.append(Change(f"data.{key}", before.get(key), now.get(key)))
    if differing:
        told = "; ".join(map(str, differing))
        logger.warning("other cells than {} was trained with: {}", found.path, told)


def _load_but(
    target: nn.Module, given: dict[str, Tensor], skipped: tuple[str, ...], path: Path
) -> None:
    """Load all weights but those whose names begin with one of ``skipped``."""
    drawn = target.state_dict()
    check_beginnings(skipped, [_bare(name) for name in drawn], "train.init_skip")
    kept = {name: value for name, value in drawn.items() if _bare(name).startswith(skipped)}
    loaded = {name: value for name, value in given.items() if not _bare(name).startswith(skipped)}
    load_weights(target, loaded | kept, f"{path}, key '{KEY}'")
    count = len(drawn) - len(kept)
    logger.info("starting with {} weights of {}, {} stay as drawn", count, path, len(kept))


def _bare(name: str) -> str:
    return name.removeprefix(STUDENT)
