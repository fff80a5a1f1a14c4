"""Superpixels on disk: written once, found again, and attached to the images through crop, flip and resize."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config import Config
from core.data import DataConfig, make_sample
from core.data.superpixels.objects import ObjectConfig
from core.data.superpixels.slic import SlicConfig, slic
from core.data.superpixels.write import SETTINGS, default_folder, write_superpixels
from core.datasets import build_dataset
from core.datasets.images import read_image
from core.datasets.planes import plane_file
from core.errors import UserError

SMALL = SlicConfig(segments=20, sigma=1.0)


def config_of(root: Path, **keys: object) -> Config:
    dataset = {"name": "nuscenes", "root": str(root), "version": "v1.0-mini", "partial": True}
    return Config({"dataset": {**dataset, **keys}}, source="job.yaml")


@pytest.fixture(scope="module")
def written(tiny_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("superpixels")
    report = write_superpixels(config_of(tiny_nuscenes), out, SMALL, ["val"])
    assert len(report.images) == 24 and report.found == 0 and report.images.max() <= 20
    return out


def test_the_readers_find_what_was_written(written: Path, tiny_nuscenes: Path) -> None:
    config = config_of(tiny_nuscenes, planes={"superpixels": str(written)}, use_labels=False)
    assert default_folder(config) == written
    scan = build_dataset(config, "val").load(1)
    assert len(scan.cameras) == 6
    for camera in scan.cameras[:2]:
        assert (camera.planes["superpixels"]() == slic(camera.load(), SMALL)).all()


def test_started_again_it_goes_on(written: Path, tiny_nuscenes: Path, tmp_path: Path) -> None:
    first = write_superpixels(config_of(tiny_nuscenes), tmp_path, SMALL, ["train"])
    gone = sorted(tmp_path.rglob("*.png"))[3]
    content = gone.read_bytes()
    gone.unlink()
    again = write_superpixels(config_of(tiny_nuscenes), tmp_path, SMALL, ["train"], workers=2)
    assert len(again.images) == 1 and again.found == len(first.images) - 1 == 11
    assert gone.read_bytes() == content
    assert json.loads((tmp_path / SETTINGS).read_text())["segments"] == 20


def test_other_settings_need_another_folder(written: Path, tiny_nuscenes: Path) -> None:
    with pytest.raises(UserError, match=r"made otherwise \(segments\)"):
        write_superpixels(config_of(tiny_nuscenes), written, SlicConfig(segments=30, sigma=1.0))


def test_samples_carry_them_in_the_size_of_the_image(written: Path, tiny_nuscenes: Path) -> None:
    config = config_of(tiny_nuscenes, planes={"superpixels": str(written)})
    scan = build_dataset(config, "val").load(0)
    keys = {"images": True, "planes": ["superpixels"], "image_size": [32, 18], "augment": None}
    sample = make_sample(scan, 0, DataConfig.model_validate(keys))
    (plane,) = sample.cameras.planes.values()
    assert plane.shape == (6, 18, 32) and plane.dtype == np.int64
    whole = scan.cameras[0].planes["superpixels"]()
    assert set(np.unique(plane[0])) <= set(np.unique(whole)) and len(np.unique(plane[0])) > 5


@pytest.fixture
def own(tmp_path: Path, tiny_nuscenes: Path):
    """One scan's first camera with a mask of one's own."""
    config = config_of(tiny_nuscenes, planes={"masks": str(tmp_path)})
    scan = build_dataset(config, "val").load(0)
    camera = scan.cameras[0]
    path = plane_file(tmp_path, scan.token, camera.name)
    path.parent.mkdir(parents=True)
    return camera, path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_masks_of_other_segmenters(own, kind: type) -> None:
    camera, path = own
    values = np.arange(camera.size[0] * camera.size[1]).reshape(camera.size[::-1]) % 250
    values = values.astype(kind)
    if kind is np.uint16:
        values[0, 0], values[0, 1] = 65535, 300
    Image.fromarray(values).save(path)
    read = camera.planes["masks"]()
    expected = values.astype(np.int64)
    expected[expected == 65535] = -1
    assert (read == expected).all()


def test_what_is_no_mask_is_said(own) -> None:
    camera, path = own
    with pytest.raises(UserError, match="has no map 'masks'"):
        camera.planes["masks"]()
    Image.new("RGB", camera.size).save(path)
    with pytest.raises(UserError, match="no map of labels"):
        camera.planes["masks"]()
    Image.new("L", (5, 4)).save(path)
    with pytest.raises(UserError, match="5 x 4 px"):
        camera.planes["masks"]()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot decode"):
        camera.planes["masks"]()


REAL = Path(os.environ.get("LIDISTILL_REALDATA", "/nowhere")) / "nuscenes" / "samples"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real images; set LIDISTILL_REALDATA")
def test_real_images_have_as_many_superpixels_as_scikit_images() -> None:
    """With scikit-image 0.18.2 images of nuScenes end at 90 to 126 superpixels of the 150 wanted."""
    for name in ("CAM_FRONT", "CAM_BACK"):
        (path,) = (REAL / name).glob("*.jpg")
        labels = slic(read_image(path), SlicConfig())
        assert 90 <= len(np.unique(labels)) <= 126


def test_superpixels_are_merged_on_objects_of_the_scan(
    written: Path, tiny_nuscenes: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_nuscenes)
    report = write_superpixels(config, tmp_path, SMALL, ["val"], objects=ObjectConfig(points=3))
    merged = 0
    for path in sorted(tmp_path.rglob("*.png")):
        regions = np.asarray(Image.open(path)).astype(np.int64)
        plain = np.asarray(Image.open(written / path.relative_to(tmp_path))).astype(np.int64)
        pairs = np.unique(np.stack([plain.ravel(), regions.ravel()], 1), axis=0)
        assert len(pairs) == plain.max() + 1  # each superpixel lies in one region
        assert regions.max() < SMALL.segments
        merged += int(plain.max() - regions.max())
    assert merged > 0 and len(report.images) == 24
    with pytest.raises(UserError, match=r"made otherwise \(objects\)"):
        write_superpixels(config, tmp_path, SMALL, ["val"])
    with pytest.raises(UserError, match=r"made otherwise \(objects\)"):
        write_superpixels(config, written, SMALL, ["val"], objects=ObjectConfig())
