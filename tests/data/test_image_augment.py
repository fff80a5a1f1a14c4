"""Images and the pixels of points stay together through crop, mirror and jitter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_fakes import forward_camera, make_scan

from core.config import Config
from core.data import ScanSamples, collate
from core.data.config import AugmentConfig, DataConfig, ImageAugmentConfig
from core.data.image_augment import augment_aligned, crop, flip, jitter
from core.data.picture import Picture
from core.data.sample import make_sample
from core.data.sampler import SampleKey
from core.errors import UserError

HEIGHT, WIDTH = 8, 20


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbered() -> np.ndarray:
    """Each pixel holds its row and column."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows, columns, rows + columns], 2).astype(np.uint8)


def every_pixel() -> tuple[np.ndarray, np.ndarray]:
    """The pixel centres, normalised, and their (row, column)."""
    at = np.stack(np.mgrid[:HEIGHT, :WIDTH], 2).reshape(-1, 2)
    pixels = 2 * at[:, ::-1] / [WIDTH - 1, HEIGHT - 1] - 1
    return pixels.astype(np.float32), at


def picture(
    pixels: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    at: np.ndarray | None = None,
) -> Picture:
    """The numbered image, whose points by default are its pixels' centres."""
    everywhere, every = every_pixel()
    pixels = everywhere if pixels is None else pixels
    at = every if at is None else at
    visible = np.ones(len(pixels), bool) if visible is None else visible
    areas = at[:, ::-1].astype(np.int16)
    return Picture(numbered(), pixels, visible, areas)


def looked_up(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    size = np.array(image.shape[1::-1]) - 1
    u, v = np.rint((pixels + 1) / 2 * size).astype(int).T
    return image[v, u, :2]


def test_crop_is_at_the_lower_edge_and_anywhere_along_it() -> None:
    pixels, at = every_pixel()
    quarter = np.array([0.25, 0.25])  # px to the right and down: rounding decides nothing
    pixels = (pixels + 2 * quarter / [WIDTH - 1, HEIGHT - 1]).astype(np.float32)
    lefts = set()
    for seed in range(200):
        made = crop(picture(pixels), rng(seed), (7, 5))
        image, new, visible = made.image, made.pixels, made.visible
        assert image.shape == (5, 7, 3)
        assert image[-1, :, 0].tolist() == [HEIGHT - 1] * 7
        left = int(image[0, 0, 1])
        lefts.add(left)
        inside = (
            (at[:, 0] >= HEIGHT - 5)
            & (at[:, 1] >= left)
            & (at[:, 1] < left + 6)
            & (at[:, 0] < HEIGHT - 1)
        )
        np.testing.assert_array_equal(visible, inside)
        np.testing.assert_array_equal(looked_up(image, new)[inside], at[inside])
        assert (new[~inside] == 0).all() and np.abs(new).max() <= 1
        reached = (at[:, 0] >= HEIGHT - 5) & (at[:, 1] >= left) & (at[:, 1] < left + 7)
        np.testing.assert_array_equal(made.areas[:, 0] >= 0, reached)  # the last column counts
        column, row = made.areas[reached].T
        np.testing.assert_array_equal(image[row, column, :2], at[reached])
        assert (made.areas[~reached] == -1).all()
    assert lefts == set(range(WIDTH - 7 + 1))


def test_crop_leaves_hidden_points_hidden_and_may_be_the_whole_image() -> None:
    pixels, at = every_pixel()
    hidden = np.arange(len(at)) % 2 == 0
    shown = picture(np.where(hidden[:, None], 0, pixels), ~hidden)
    shown.areas[hidden] = -1
    made = crop(shown, rng(), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(made.image, numbered())
    np.testing.assert_array_equal(made.visible, ~hidden)
    np.testing.assert_allclose(made.pixels[~hidden], pixels[~hidden], atol=1e-6)
    np.testing.assert_array_equal(made.areas, shown.areas)


def test_crop_larger_than_the_image() -> None:
    with pytest.raises(
        UserError, match=r"image_augment.crop: the images have 20x8 px, less than a crop of 30x5"
    ):
        crop(picture(), rng(), (30, 5))


def test_flip_takes_the_points_along() -> None:
    _, at = every_pixel()
    made = flip(picture())
    np.testing.assert_array_equal(looked_up(made.image, made.pixels), at)
    assert made.image[0, 0, 1] == WIDTH - 1
    column, row = made.areas.T
    np.testing.assert_array_equal(made.image[row, column, :2], at)


def test_a_mirrored_point_stays_on_its_pixel() -> None:
    """Columns 100, 200 and 10 of 480 become 379, 279 and 469; a point on none stays on none."""
    at = np.array([[0, 100], [0, 200], [0, 10], [-1, -1]])  # of u = 100.5, 200.25, 10.9
    wide = Picture(
        np.zeros((1, 480, 3), np.uint8), np.zeros((4, 2), np.float32), np.ones(4, bool),
        at[:, ::-1].astype(np.int16),
    )  # fmt: skip
    assert flip(wide).areas.tolist() == [[379, 0], [279, 0], [469, 0], [-1, -1]]
    assert flip(flip(wide)).areas.tolist() == wide.areas.tolist()


def test_flip_has_its_chance() -> None:
    config, generator = ImageAugmentConfig(flip=0.3, jitter=None), rng()
    shown = picture()
    mirrored = [augment_aligned(shown, generator, config).image[0, 0, 1] > 0 for _ in range(1000)]
    assert 250 < sum(mirrored) < 350  # standard deviation 14.5


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        ((0.5, 0, 0), lambda image, f: image * f),
        (
            (0, 0.5, 0),
            lambda image, f: (image - grey(image).mean().round()) * f + grey(image).mean().round(),
        ),
        (
            (0, 0, 0.5),
            lambda image, f: (image - grey(image)[..., None]) * f + grey(image)[..., None],
        ),
    ],
)
def test_jitter_is_a_blend(strength: tuple, expected: object) -> None:
    image = rng(3).integers(70, 160, (6, 9, 3)).astype(np.uint8)
    factor = rng(2).uniform(1 - np.array(strength), 1 + np.array(strength))[np.argmax(strength)]
    changed = jitter(image, rng(2), strength)
    assert changed.dtype == np.uint8 and changed.shape == image.shape
    np.testing.assert_allclose(
        changed, np.clip(expected(image.astype(float), factor), 0, 255), atol=1.6
    )
    assert abs(factor - 1) > 0.05


def grey(image: np.ndarray) -> np.ndarray:
    return np.rint(image @ [0.299, 0.587, 0.114])


def test_jitter_draws_strength_and_order() -> None:
    image = rng(3).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(jitter(image, rng(), (0, 0, 0)), image)
    np.testing.assert_array_equal(
        jitter(image, rng(1), (0.4,) * 3), jitter(image, rng(1), (0.4,) * 3)
    )
    assert len({jitter(image, rng(seed), (0.4,) * 3).tobytes() for seed in range(10)}) == 10


def scan_with_camera() -> object:
    points = rng(7).uniform((3, -3, -1), (9, 3, 1), (300, 3))
    rows, columns = np.mgrid[:11, :21]
    image = np.stack([rows, columns, rows], 2).astype(np.uint8)
    return make_scan(points, labels=np.ones(300), cameras=(forward_camera(load=lambda: image),))


def test_samples_keep_pixels_and_points_together() -> None:
    config = DataConfig(
        voxel_size=0.1,
        images=True,
        image_augment=ImageAugmentConfig(crop=(9, 7), flip=1.0, jitter=None),
        augment=AugmentConfig(),
    )
    scan = scan_with_camera()
    plain = make_sample(scan, 0, config)
    changed = make_sample(scan, 0, config, training=True, rng=rng(2))
    assert plain.images.shape == (1, 3, 11, 21) and changed.images.shape == (1, 3, 7, 9)
    kept = dict(zip(plain.voxel_to_point, range(len(plain.coords))))
    both = [
        (i, kept[p])
        for i, p in enumerate(changed.voxel_to_point)
        if changed.visible[0, i] and p in kept
    ]
    assert 5 < len(both) < len(kept)
    for new, old in both:
        u = (plain.pixels[0, old, 0] + 1) / 2 * 20
        v = (plain.pixels[0, old, 1] + 1) / 2 * 10
        column = (changed.pixels[0, new, 0] + 1) / 2 * 8
        row = (changed.pixels[0, new, 1] + 1) / 2 * 6
        left = changed.images[0, 1, 0, -1] * 255  # the mirrored cut-out's last column is its first
        assert (8 - column) + left == pytest.approx(u, abs=1e-3)
        assert row + 4 == pytest.approx(v, abs=1e-3)


def test_evaluation_without_images() -> None:
    class One:
        budget = None

        def __len__(self) -> int:
            return 1

        def token(self, index: int) -> str:
            return "one"

        def load(self, index: int, *, cameras: bool = True) -> object:
            self.asked = cameras
            return scan_with_camera()

    for training, eval_images, expected in (
        (True, False, True),
        (False, False, False),
        (False, True, True),
    ):
        dataset = One()
        config = DataConfig(images=True, eval_images=eval_images)
        sample = ScanSamples(dataset, config, training=training)[SampleKey(0, 0)]
        assert (sample.images is not None) is expected
        assert dataset.asked is expected


@pytest.mark.parametrize(
    "option",
    [
        {"crop": [1, 5]},
        {"flip": 1.5},
        {"jitter": [0.4, 0.4]},
        {"jitter": [-0.1, 0, 0]},
        {"flp": 0.5},
    ],
)
def test_faulty_options(option: dict) -> None:
    with pytest.raises(UserError, match=f"image_augment.{next(iter(option))}"):
        Config({"data": {"image_augment": option}}).parse(DataConfig, "data")


def test_planes_follow_their_image() -> None:
    """A map of column numbers, twice as fine as the image, is resized, cropped and mirrored with it."""
    fine = np.repeat(np.repeat(numbered()[..., 1].astype(np.int32), 2, 0), 2, 1)
    scan = make_scan([[5, 0, 0], [6, 1, 0]], labels=[1, 2])
    load = numbered
    camera = replace(
        forward_camera((WIDTH, HEIGHT), load=load), planes={"superpixels": lambda: fine}
    )
    config = DataConfig(
        voxel_size=0.5,
        augment=None,
        images=True,
        planes=("superpixels",),
        image_augment=ImageAugmentConfig(crop=(7, 5), flip=0.5, jitter=None),
    )
    mirrored = set()
    for seed in range(20):
        cameras = (camera,)
        sample = make_sample(
            replace(scan, cameras=cameras), 0, config, training=True, rng=rng(seed)
        )
        columns = np.rint(sample.images[0, 1] * 255).astype(int)
        assert np.array_equal(sample.cameras.planes["superpixels"][0], columns)
        mirrored.add(columns[0, 0] > columns[0, 1])
    assert mirrored == {True, False}
    batch = collate([sample, sample])
    assert batch.cameras.planes["superpixels"].shape == (2, 1, 5, 7)
    with pytest.raises(UserError, match="camera front has no map 'depth'"):
        wanted = config.model_copy(update={"planes": ("depth",)})
        make_sample(replace(scan, cameras=(camera,)), 0, wanted)
