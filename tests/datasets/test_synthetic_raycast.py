"""The ray caster against hand arithmetic and a brute-force reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import Ground, Mat
from core.datasets.synthetic.raycast import GROUND, KERB, NOTHING, cast, geometry
from core.datasets.synthetic.solids import Model, extent, join, place, rotation
from core.datasets.synthetic.town import Route

GREY = (0.5, 0.5, 0.5)
ROAD = np.full((400, 400), Ground.ASPHALT, np.uint8)  # 80 m x 80 m


def shoot(solids, origin, directions, ground=ROAD, reach=200.0):
    directions = np.atleast_2d(np.asarray(directions, float))
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return cast(
        geometry(solids, ground), np.asarray(origin, float), directions, reach, len(solids.kind)
    )


def box(centre, size, **kwargs):
    model = Model(Cls.CAR)
    model.box(centre, size, Mat.PAINT, GREY, **kwargs)
    return model.solids()


def test_box_distance_and_incidence():
    distance, what, cosine, _ = shoot(
        box((30, 20, 1), (4, 2, 2)), (20, 20, 1), [[1, 0, 0], [-1, 0, 0]]
    )
    assert what.tolist() == [0, NOTHING]
    assert distance[0] == pytest.approx(8.0, abs=1e-9) and np.isinf(distance[1])
    assert cosine[0] == pytest.approx(1.0)


def test_turned_box_shows_its_corner():
    solids = place(box((0, 0, 1), (2, 2, 2)), rotation(yaw=math.pi / 4), (30, 20, 0))
    distance, _, cosine, _ = shoot(solids, (20, 20.001, 1), [[1, 0, 0]])
    assert distance[0] == pytest.approx(10 - math.sqrt(2) + 0.001, abs=1e-6)
    assert cosine[0] == pytest.approx(math.sqrt(0.5), abs=1e-6)


def test_tapered_box_recedes_with_height():
    solids = box(
        (30, 20, 1), (4, 4, 2), taper=(0.5, 0.5)
    )  # half size 2 at the bottom, 1 at the top, 1.5 in the middle
    assert shoot(solids, (20, 20, 1), [[1, 0, 0]])[0][0] == pytest.approx(8.5, abs=1e-9)
    assert shoot(solids, (20, 20, 1.999), [[1, 0, 0]])[0][0] == pytest.approx(9.0, abs=1e-3)


def test_cylinder_cone_and_ellipsoid():
    model = Model(Cls.POLE)
    model.cylinder((30, 20, 2), 0.5, 4.0, Mat.METAL, GREY)
    model.cylinder((20, 30, 2), 1.0, 4.0, Mat.METAL, GREY, taper=1.0)
    model.ellipsoid((10, 20, 2), (2.0, 1.0, 1.0), Mat.FOLIAGE, GREY)
    origin = (20, 20, 2)
    distance, what, _, _ = shoot(
        model.solids(), origin, [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    )
    assert what.tolist() == [0, 1, 2, NOTHING]
    assert distance[:3] == pytest.approx(
        [9.5, 9.5, 8.0], abs=1e-9
    )  # the cone's radius half-way up is 0.5


def test_ground_kerb_and_raised_level():
    ground = ROAD.copy()
    ground[:, 200:] = Ground.SIDEWALK  # raised by 0.15 m from x = 40 on
    solids = box((5, 75, 1), (1, 1, 1))
    distance, what, _, material = shoot(
        solids, (30, 20, 1.5), [[0, 0, -1], [11, 0, -1.35], [10, 0, -1.4]], ground
    )
    assert what.tolist() == [GROUND, GROUND, KERB]
    assert material.tolist()[:2] == [Ground.ASPHALT, Ground.SIDEWALK]
    assert distance[0] == pytest.approx(1.5)
    assert distance[1] == pytest.approx(math.hypot(11, 1.35))
    assert distance[2] * 10 / math.hypot(10, 1.4) == pytest.approx(10.0, abs=0.15)


def test_grid_walk_finds_what_brute_force_finds():
    rng = np.random.default_rng(0)
    centres, radii = rng.uniform((2, 2, 1), (78, 78, 6), (150, 3)), rng.uniform(0.2, 2.5, 150)
    model = Model(Cls.VEGETATION)
    for centre, radius in zip(centres, radii):
        model.ellipsoid(centre, (radius, radius, radius), Mat.FOLIAGE, GREY)
    rays = rng.standard_normal((3000, 3))
    rays[:, 2] = np.abs(rays[:, 2]) * 0.3
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    origin = np.array([41.3, 39.1, 0.4])
    free = np.linalg.norm(centres - origin, axis=1) > radii
    solids = model.solids()
    solids = type(solids)(*(column[free] for column in solids))
    to = centres[free] - origin
    along = rays @ to.T
    gap = radii[free] ** 2 - ((to**2).sum(1) - along**2)
    hit = (gap >= 0) & (along > 0)
    expected = np.where(hit, along - np.sqrt(np.maximum(gap, 0)), np.inf).min(1)
    assert 0.2 < np.isfinite(expected).mean() < 0.95
    distance, _, _, _ = shoot(solids, origin, rays)
    np.testing.assert_allclose(distance, expected, atol=1e-7)


def test_extent_covers_turned_solids():
    rng = np.random.default_rng(1)
    model = Model(Cls.CAR)
    model.box((1, 2, 3), (1, 2, 3), Mat.PAINT, GREY, axes=rotation(0.3, 0.4, 0.5))
    model.cylinder((1, 2, 3), 0.5, 3.0, Mat.PAINT, GREY, axes=rotation(0.1, 1.0, 0.2))
    solids = join([model.solids()])
    low, high = extent(solids)
    unit = rng.uniform(-1, 1, (20000, 3))
    cube = unit * solids.half[0] @ solids.axes[0].T + solids.centre[0]
    tube = (
        unit[np.hypot(unit[:, 0], unit[:, 1]) <= 1] * solids.half[1] @ solids.axes[1].T
        + solids.centre[1]
    )
    for k, points in enumerate((cube, tube)):
        assert (points >= low[k]).all() and (points <= high[k]).all()
        assert (points.max(0) > high[k] - 0.35).all()


@pytest.mark.parametrize("left", [True, False])
def test_route_is_smooth_closed_and_keeps_right(left):
    route = Route(50.0, 60.0, 110.0, 130.0, left)
    steps = np.arange(0.0, route.length, 0.05)
    poses = np.array([route.at(s) for s in steps])
    moves = np.diff(np.vstack([poses[:, :2], poses[:1, :2]]), axis=0)
    lengths = np.linalg.norm(moves, axis=1)
    assert lengths.max() < 0.0501
    heading = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], 1)
    assert ((moves / lengths[:, None]) * heading).sum(1).min() > 0.99
    x, y = poses[0, :2]
    assert y == pytest.approx(60.0 - 2.3) if left else x == pytest.approx(50.0 + 2.3)
