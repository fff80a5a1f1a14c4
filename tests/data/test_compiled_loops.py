"""Loops compiled by numba check no bounds: what they are given is looked at before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from core.contracts import Sensor
from core.data.corruptions.base import Sweep
from core.data.corruptions.fog import fog
from core.data.instances.scene import Scene, in_shadow, place
from core.data.partitions import PartitionSection, group
from core.errors import UserError

POINTS = np.ones((5, 3), np.float32)
ONES = np.ones(5, np.float32)
IDS = np.zeros(5, np.int64)


@pytest.mark.parametrize(
    "coords, message",
    [
        ([[0, 0, -1]], "run from -1 to 0"),
        ([[0, 1 << 21, 0]], "run from 0 to 2097152; 0 to 2097151"),
        ([[0, 0, 1 << 40]], f"to {1 << 40}"),
        ([[0.0, 0.5, 1.0]], "float64"),
        ([[0]], r"\[1, 1\]"),
        ([0, 1, 2], r"\[3\]"),
    ],
)
def test_cells_whose_keys_would_be_others(coords, message):
    with pytest.raises(UserError, match=message):
        group(np.array(coords))


def test_cells_at_the_ends_of_their_range():
    top = (1 << 21) - 1
    grouping = group(np.array([[0, 0, 0], [top, top, top], [0, 0, 0]], np.int32))
    assert grouping.of_point.tolist() == [0, 1, 0]


@dataclass
class _Ranks:
    """A partition whose rows are as many as it is told."""

    name: str
    cells: int
    ranks: int

    def index(self, xyz, sensor):
        return np.zeros((self.cells, 3), np.int32), None

    def rank(self, xyz, sensor):
        return np.zeros(self.ranks, np.float32)


@pytest.mark.parametrize(
    "cells, ranks, message", [(5, 1, "rank gives .*5"), (4, 5, "4 cells for 5")]
)
def test_a_partition_of_other_rows(cells, ranks, message):
    with pytest.raises(UserError, match=f"mine: .*{message}"):
        PartitionSection.group(_Ranks("mine", cells, ranks), POINTS, Sensor())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_corruption_of_what_is_not_finite(value):
    points, intensity = POINTS.copy(), ONES.copy()
    points[3, 1] = value
    with pytest.raises(UserError, match="not finite"):
        fog(Sweep(points, ONES, ONES > 1, 32), np.random.default_rng(0), alpha=0.1)
    intensity[0] = value
    with pytest.raises(UserError, match="not finite"):
        Sweep(POINTS, intensity, ONES > 1, 32)
    with pytest.raises(UserError, match=r"\[5, 3\] with 4"):
        Sweep(POINTS, ONES[:4], ONES > 1, 32)


def scene(labels: int = 5, ground: int = 256) -> Scene:
    things = np.zeros(256, bool)
    return Scene(POINTS, np.zeros(labels, np.uint8), things, np.full(ground, -1, np.int8))


@pytest.mark.parametrize("labels, ground", [(4, 256), (5, 10)])
def test_a_scene_of_other_labels(labels, ground):
    with pytest.raises(ValueError, match=f"{labels} labels and {ground} grounds for 5 points"):
        scene(labels, ground)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_object_that_lies_nowhere_is_not_placed(value):
    where = np.array([[20.0, 0.0, 0.0]])
    boxes = np.zeros((0, 2, 3))
    assert place(scene(), POINTS, POINTS[0], where, np.zeros((1, 1, 3)), boxes) is not None
    lost = np.full((5, 3), value, np.float32)
    assert place(scene(), lost, POINTS[0], where, np.zeros((1, 1, 3)), boxes) is None
    assert (
        place(scene(), POINTS, POINTS[0], np.full_like(where, value), np.zeros((1, 1, 3)), boxes)
        is None
    )


@pytest.mark.parametrize(
    "owner, caster, count", [(IDS[:4], IDS, 1), (IDS, IDS[:4], 1), (IDS, IDS + 1, 1)]
)
def test_shadows_of_other_objects(owner, caster, count):
    with pytest.raises(ValueError):
        in_shadow(POINTS, owner, POINTS, caster, count)
