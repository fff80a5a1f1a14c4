"""Label budgets: nested, seeded, SLidR's two rules, lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.datasets.budget import LabelBudget, labelled_scans
from core.errors import UserError

SCENES = [f"{scene:02d}" for scene in range(20) for _ in range(40)]
TOKENS = [f"{scene}/{i % 40:06d}" for i, scene in enumerate(SCENES)]


def chosen(**settings: object) -> np.ndarray:
    """Rows that a budget chooses of 20 scenes with 40 scans each."""
    return np.flatnonzero(labelled_scans(LabelBudget.model_validate(settings), TOKENS, SCENES))


@pytest.mark.parametrize("by", ["keyframe", "scene"])
def test_drawn_budgets_are_nested_and_of_the_right_size(by: str) -> None:
    sizes = []
    before: set[int] = set()
    for fraction in (0.05, 0.1, 0.25, 0.5, 1):
        rows = set(chosen(fraction=fraction, by=by).tolist())
        assert before <= rows
        before = rows
        sizes.append(len(rows))
    assert sizes == [40, 80, 200, 400, 800]


def test_the_seed_draws() -> None:
    assert chosen(fraction=0.1).tolist() == chosen(fraction=0.1).tolist()
    assert chosen(fraction=0.1).tolist() != chosen(fraction=0.1, seed=1).tolist()


def test_keyframes_are_spread_over_the_scenes() -> None:
    """20 scans of 20 scenes are one of each; 30 are at most two."""
    assert np.bincount(chosen(fraction=0.025) // 40).tolist() == [1] * 20
    assert set(np.bincount(chosen(fraction=0.0375) // 40).tolist()) == {1, 2}


def test_scenes_are_whole() -> None:
    counts = np.bincount(chosen(fraction=0.1, by="scene") // 40, minlength=20)
    assert sorted(counts.tolist()) == [0] * 18 + [40, 40]


def test_slidrs_rules() -> None:
    """Scenes are counted from 1 and every k-th is kept whole; frames are counted from 0."""
    assert sorted(set(chosen(fraction=0.2, by="every_scene") // 40)) == [4, 9, 14, 19]
    assert chosen(fraction=0.01, by="frame").tolist() == list(range(0, 800, 100))


def test_slidrs_label_fractions() -> None:
    """7 to 700 scenes of nuScenes, and 192 of the 19,130 training scans of SemanticKITTI, as SLidR counts them."""
    scenes = [f"scene-{i:04d}" for i in range(700)]
    for fraction, count in ((0.01, 7), (0.05, 35), (0.1, 70), (0.25, 175), (1, 700)):
        budget = LabelBudget(fraction=fraction, by="every_scene")
        assert labelled_scans(budget, scenes, scenes).sum() == count
    scans = [f"{i:06d}" for i in range(19_130)]
    budget = LabelBudget(fraction=0.01, by="frame")
    assert labelled_scans(budget, scans, ["00"] * len(scans)).sum() == 192


def test_a_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("03/000002  # the crossing\n\n19/000039\n")
    assert chosen(file=path).tolist() == [122, 799]
    path.write_text("03/2\n")
    with pytest.raises(UserError, match=r"'03/2'.*00/000000"):
        chosen(file=path)
    path.write_text("# none\n")
    with pytest.raises(UserError, match="names no scan"):
        chosen(file=path)


def test_a_budget_that_leaves_nothing() -> None:
    with pytest.raises(UserError, match="none of 800 scans in 20 scenes"):
        chosen(fraction=0.01, by="every_scene")


@pytest.mark.parametrize("settings", [{}, {"fraction": 0.1, "file": "a"}, {"fraction": 0}])
def test_a_budget_has_one_rule(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        LabelBudget.model_validate(settings)
