"""Regions of superpixels that lie on one object: on scenes whose objects and regions can be named by hand."""

from __future__ import annotations

import numpy as np

from core.data.superpixels.objects import ObjectConfig, find_objects, merge_on_objects

CONFIG = ObjectConfig()


def block(low: tuple[float, float, float], high: tuple[float, float, float]) -> np.ndarray:
    """Points every 0.2 m of a box."""
    axes = [np.arange(a, b, 0.2) for a, b in zip(low, high)]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 3).astype(np.float32)


GROUND = block((-12, -12, -1.8), (12, 12, -1.7))
CAR = block((4, 1, -1.8), (8, 2.8, -0.3))
VAN = block((4, 4, -1.8), (8, 5.8, 0.4))  # 1.2 m beside the car
WALL = block((-11, -10, -1.8), (11, -9.5, 1))
POLE = block((-5, 5, -1.8), (-4.9, 5.1, 0.2))


def test_things_that_do_not_touch_are_objects_of_their_own() -> None:
    parts = [GROUND, CAR, VAN, WALL, POLE]
    objects = np.split(
        find_objects(np.concatenate(parts), CONFIG), np.cumsum([len(p) for p in parts])[:-1]
    )
    ground, car, van, wall, pole = objects
    low = [part[:, 2] <= part[:, 2].min() + 0.3 for part in parts]
    assert (ground == -1).all() and (wall == -1).all()  # longer than 8 m: a building
    assert (car[low[1]] == -1).all() and (van[low[2]] == -1).all()
    (of_car,), (of_van,) = set(car[~low[1]].tolist()), set(van[~low[2]].tolist())
    assert {of_car, of_van} == {0, 1}
    assert (pole == -1).all()  # eight points above the ground are too few
    more = find_objects(np.concatenate(parts), ObjectConfig(points=5))
    assert set(more.tolist()) == {-1, 0, 1, 2}


def test_an_empty_scan_and_one_without_objects() -> None:
    assert find_objects(np.empty((0, 3), np.float32), CONFIG).shape == (0,)
    assert (find_objects(GROUND, CONFIG) == -1).all()
    assert find_objects(np.full((1, 3), np.inf, np.float32), CONFIG).tolist() == [-1]


LABELS = np.array(
    [
        [0, 0, 1, 1, 2, 2],
        [3, 3, 1, 4, 4, 2],
        [3, 5, 5, 5, 4, 6],
    ]
)


def places(*of_label: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and objects of points: (superpixel, object, how many points)."""
    rows, objects = [], []
    for label, thing, count in of_label:
        rows += [np.argwhere(label == LABELS)[0]] * count
        objects += [thing] * count
    return np.array(rows, np.int64).reshape(-1, 2), np.array(objects, np.int64)


def merged(*of_label: tuple[int, int, int]) -> list[list[int]]:
    return merge_on_objects(LABELS, *places(*of_label), CONFIG).tolist()


def test_superpixels_beside_each_other_on_one_object_are_one_region() -> None:
    found = merged((1, 7, 3), (4, 7, 2), (4, -1, 1), (6, 7, 1), (0, 2, 4), (5, -1, 9), (3, -1, 9))
    assert found == [[0, 0, 1, 1, 2, 2], [3, 3, 1, 1, 1, 2], [3, 4, 4, 4, 1, 1]]


def test_what_touches_nothing_of_its_object_stays_alone() -> None:
    found = merged((0, 7, 3), (6, 7, 3), (2, 5, 3))
    assert found == LABELS.tolist()


def test_half_of_the_points_is_not_enough() -> None:
    assert merged((1, 7, 2), (1, -1, 2), (4, 7, 2)) == LABELS.tolist()
    assert merged((1, 7, 3), (1, 3, 2), (4, 7, 2)) != LABELS.tolist()


def test_without_points_nothing_is_merged() -> None:
    assert merged() == LABELS.tolist()
