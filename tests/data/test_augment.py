"""Each augmentation by known angles and factors, and the ranges of its draws."""

from __future__ import annotations

import numpy as np
import pytest

from core.config import Config
from core.data.augment import augment, draw_kept, flip, rotate, scale, translate
from core.data.config import AugmentConfig, DataConfig
from core.errors import UserError

POINTS = np.array([[1, 2, 3], [-4, 5, -6]], np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("axes", "signs"),
    [("none", (1, 1, 1)), ("x", (-1, 1, 1)), ("y", (1, -1, 1)), ("xy", (-1, -1, 1))],
)
def test_flip(axes, signs):
    flipped = flip(POINTS, rng(), [axes])
    assert flipped.tolist() == (POINTS * signs).tolist()
    assert flipped.dtype == np.float32


def test_flip_draws_all_four_evenly():
    generator, counts = rng(), {}
    for _ in range(2000):
        signs = tuple(flip(np.ones((1, 3), np.float32), generator, ("none", "x", "y", "xy"))[0])
        counts[signs] = counts.get(signs, 0) + 1
    assert set(counts) == {(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)}
    assert min(counts.values()) > 420  # expected 500, standard deviation 19


@pytest.mark.parametrize(
    ("degrees", "expected"), [(90, [-2, 1, 3]), (180, [-1, -2, 3]), (-90, [2, -1, 3])]
)
def test_rotate_by_a_known_angle(degrees, expected):
    turned = rotate(POINTS, rng(), (degrees, degrees))
    np.testing.assert_allclose(turned[0], expected, atol=1e-6)
    assert turned.dtype == np.float32


def test_rotate_range_is_degrees():
    generator = rng()
    angles = [
        np.degrees(np.arctan2(*rotate(np.eye(3, dtype=np.float32), generator, (10, 30))[0, 1::-1]))
        for _ in range(500)
    ]
    assert 10 <= min(angles) < 11
    assert 29 < max(angles) <= 30.0001


def test_scale_and_translate():
    assert scale(POINTS, rng(), (2, 2)).tolist() == (POINTS * 2).tolist()
    assert translate(POINTS, rng(), (0, 0, 0)).tolist() == POINTS.tolist()
    shift = translate(POINTS, rng(), (0, 1, 2)) - POINTS
    np.testing.assert_allclose(shift[0], shift[1], atol=1e-6)  # one draw for the whole scan
    assert shift[0, 0] == 0
    assert np.all(shift[0, 1:] != 0)


def test_translate_standard_deviation():
    generator = rng()
    shifts = np.stack(
        [
            translate(np.zeros((1, 3), np.float32), generator, (0.1, 0.2, 0.4))[0]
            for _ in range(4000)
        ]
    )
    np.testing.assert_allclose(shifts.std(0), [0.1, 0.2, 0.4], rtol=0.05)


def test_order_is_flip_rotate_scale_translate():
    config = AugmentConfig(flip=("x",), rotate=(90, 90), scale=(2, 2), translate_std=(0, 0, 0))
    # (1, 2, 3) -> flipped (-1, 2, 3) -> turned (-2, -1, 3) -> (-4, -2, 6); turned first it would be (4, 2, 6).
    np.testing.assert_allclose(augment(POINTS, rng(), config)[0], [-4, -2, 6], atol=1e-5)


def test_everything_off_changes_nothing():
    config = AugmentConfig(flip=False, rotate=None, scale=None, translate_std=None)
    np.testing.assert_array_equal(augment(POINTS, rng(), config), POINTS)
    assert AugmentConfig(rotate=False).rotate_range is None
    assert AugmentConfig(rotate=True).rotate_range == (-180, 180)


def test_input_is_left_alone():
    copy = POINTS.copy()
    augment(POINTS, rng(), AugmentConfig())
    np.testing.assert_array_equal(POINTS, copy)


def test_dropout_fraction():
    fractions = [1 - draw_kept(1000, rng(seed), 0.5).mean() for seed in range(300)]
    assert max(fractions) < 0.55  # at most half, and the noise of 1000 draws
    assert np.mean(fractions) == pytest.approx(0.25, abs=0.02)
    assert draw_kept(100, rng(), 0.0).all()
    assert all(draw_kept(1, rng(seed), 0.99).all() for seed in range(50))  # the last point stays


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"voxel_size": 0}, "data.voxel_size"),
        ({"augment": {"scale": [1.05, 0.95]}}, "data.augment.scale"),
        ({"augment": {"scale": [0, 1]}}, "data.augment.scale"),
        ({"augment": {"translate_std": [0.1, 0.1, -0.1]}}, "data.augment.translate_std"),
        ({"augment": {"flip": ["z"]}}, "data.augment.flip"),
        ({"augment": {"dropout": 1.0}}, "data.augment.dropout"),
        ({"augment": {"rotatee": True}}, "data.augment.rotatee"),
        ({"image_size": [0, 10]}, "data.image_size"),
        ({"point_range": [0, 0, 0, 0, 1, 1]}, "point_range"),
    ],
)
def test_wrong_config_names_the_key(values, key):
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        Config({"data": values}).parse(DataConfig, "data")


def test_yaml_values():
    config = Config(
        {"data": {"augment": {"flip": ["none", "y"], "rotate": [-45, 45], "translate_std": None}}}
    )
    augmentation = config.parse(DataConfig, "data").augment
    assert augmentation.flip_choices == ("none", "y")
    assert augmentation.rotate_range == (-45, 45)
    assert augmentation.translate_std is None
    assert Config({"data": {"augment": None}}).parse(DataConfig, "data").augment is None


def test_scale_may_leave_heights_alone():
    assert scale(POINTS, rng(), (2, 2), z=False).tolist() == (POINTS * [2, 2, 1]).tolist()
    config = AugmentConfig(flip=False, rotate=None, scale=(2, 2), scale_z=False, translate_std=None)
    assert augment(POINTS, rng(), config).tolist() == (POINTS * [2, 2, 1]).tolist()
