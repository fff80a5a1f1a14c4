"""``dataset.labelled``: which scans of a training split keep their labels.

Every choice is a function of the split and the seed alone, and the seeded ones are nested: the scans of 1 % are among
those of 10 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from core.config import Section
from core.decode import read_text
from core.errors import UserError

__all__ = ["LabelBudget", "labelled_scans"]

_KEY = "key 'dataset.labelled'"


class LabelBudget(Section):
    """``dataset.labelled:``, the share of the training scans that keep their labels."""

    fraction: float | None = Field(
        None, gt=0, le=1, description="share of the scans; null with a file"
    )
    by: Literal["keyframe", "scene", "every_scene", "frame"] = Field(
        "keyframe",
        description='"keyframe" = drawn scans, spread over the scenes; "scene" = drawn whole scenes; "every_scene" = '
        'every k-th whole scene in the data set\'s order, k = 1 / fraction (SLidR on nuScenes); "frame" = every k-th '
        "scan of the split (SLidR on SemanticKITTI)",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="of the draw; every_scene and frame draw nothing"
    )
    file: Path | None = Field(
        None, description="file with a token per line, in place of a fraction; # begins a comment"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.fraction is None) == (self.file is None):
            raise ValueError("give either fraction or file")
        return self


def labelled_scans(budget: LabelBudget, tokens: Sequence[str], scenes: Sequence[str]) -> np.ndarray:
    """Choose the scans that keep their labels.

    Args:
        tokens: of the split's scans, in order. scenes: of each scan, the name of its scene or sequence.

    Returns:
        bool [N].

    Raises:
        UserError: the budget leaves no scan, or its list is missing or names a scan that the split lacks.
    """
    if budget.file is not None:
        return _listed(budget.file, tokens)
    assert budget.fraction is not None, "a budget has a list or a fraction"
    chosen = np.zeros(len(tokens), bool)
    if budget.by == "frame":
        chosen[:: _step(budget.fraction)] = True
    elif budget.by == "every_scene":
        names = list(dict.fromkeys(scenes))
        step = _step(budget.fraction)
        chosen = np.isin(scenes, names[step - 1 :: step])
    elif budget.by == "scene":
        chosen = _whole_scenes(budget, scenes)
    else:
        chosen[_spread(scenes, budget.seed)[: _count(budget.fraction, len(tokens))]] = True
    if not chosen.any():
        raise UserError(
            f"a fraction of {budget.fraction:g} by {budget.by} leaves none of {len(tokens)} scans in "
            f"{len(set(scenes))} scenes",
            where=f"{_KEY}",
            cure="Take a larger fraction, or by: keyframe",
        )
    return chosen


def _step(fraction: float) -> int:
    return max(1, round(1 / fraction))


def _count(fraction: float, total: int) -> int:
    return min(total, max(1, round(fraction * total)))


def _whole_scenes(budget: LabelBudget, scenes: Sequence[str]) -> np.ndarray:
    names = list(dict.fromkeys(scenes))
    assert budget.fraction is not None
    order = np.random.default_rng(budget.seed).permutation(len(names))
    drawn = order[: _count(budget.fraction, len(names))]
    return np.isin(scenes, [names[i] for i in drawn])


def _spread(scenes: Sequence[str], seed: int) -> np.ndarray:
    """Order of the scans in which every beginning is spread over the scenes: i64 [N].

    Scenes are shuffled, and the scans of each; then each scene gives one scan in turn.
    """
    _, scene = np.unique(scenes, return_inverse=True)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(scenes))
    place_of_scene = rng.permutation(int(scene.max(initial=0)) + 1)
    by_scene = shuffled[np.argsort(scene[shuffled], kind="stable")]
    counts = np.bincount(scene)
    starts = np.cumsum(counts) - counts
    turn = np.empty(len(scenes), np.int64)
    turn[by_scene] = np.arange(len(scenes)) - np.repeat(starts, counts)
    return np.lexsort([place_of_scene[scene], turn])


def _listed(path: Path, tokens: Sequence[str]) -> np.ndarray:
    wanted = set()
    for line in read_text(path, "list of scans").splitlines():
        token = line.partition("#")[0].strip()
        if token:
            wanted.add(token)
    unknown = sorted(wanted.difference(tokens))
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(wanted)} tokens are none of the training split, the first: '{unknown[0]}'",
            where=str(path),
            cure=f"Tokens look like '{tokens[0]}'" if tokens else None,
        )
    if not wanted:
        raise UserError("the list names no scan", where=str(path), cure="Write a token per line")
    return np.isin(tokens, list(wanted))
