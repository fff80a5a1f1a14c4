"""Cameras of a folder of scans: the small calibration file, its example, and the images beside it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import core.datasets.calibration as calibration
from core.config import Config
from core.datasets import build_dataset
from core.errors import UserError

EXAMPLE = textwrap.dedent(calibration.__doc__.split("::\n\n")[1].split("\n\n``")[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scans and the camera of the module's example, whose images are one PNG and one JPEG."""
    for scan in range(2):
        np.array([[0, 10, 0, 1], [0, -10, 0, 1], [1, 10, 1, 1], [0, 1.2, 0, 1]], np.float32).tofile(
            tmp_path / f"s{scan}.bin"
        )
    (tmp_path / "images" / "front").mkdir(parents=True)
    for name, grey in (("s0.png", 40), ("s1.jpg", 200)):
        Image.new("RGB", (1600, 900), (grey,) * 3).save(tmp_path / "images" / "front" / name)
    (tmp_path / "calibration.yaml").write_text(EXAMPLE)
    return tmp_path


def build(root: Path, **keys):
    return build_dataset(
        Config({"dataset": {"name": "folder", "root": str(root), **keys}}), "train"
    )


def test_example_of_the_documentation(root) -> None:
    """K = [1266.4, 1266.4; 816.3, 491.5] px, 0.5 m in front of and 0.3 m below the LiDAR, looking along y."""
    dataset = build(root)
    assert dataset.cameras == ("front",)
    scan = dataset.load(0)
    (camera,) = scan.cameras
    uv, depth, visible = camera.project(scan.xyz)
    assert visible.tolist() == [True, False, True, False], (
        "behind, and nearer than 1 m, nothing is visible"
    )
    np.testing.assert_allclose(depth, [9.5, -10.5, 9.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose(uv[0], [816.3, 491.5 - 1266.4 * 0.3 / 9.5], rtol=1e-5)
    np.testing.assert_allclose(uv[2], [816.3 + 1266.4 / 9.5, 491.5 - 1266.4 * 1.3 / 9.5], rtol=1e-5)
    assert camera.load().mean() == 40 and abs(dataset.load(1).cameras[0].load().mean() - 200) < 2
    assert (
        dataset.load(0, cameras=False).cameras == ()
        and build(root, cameras=[]).load(0).cameras == ()
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size: [1600, 900]", "size: [1600]", r"key 'cameras.front.size"),
        (
            "size: [1600, 900]",
            "size: [1500, 850]",
            r"s0.png: this image has 1600 x 900 px, but .* says 1500 x 850",
        ),
        (
            "size: [1600, 900]",
            "size: [800, 450]",
            r"principal point at \(816, 492\) px, outside an image of 800 x 450 px",
        ),
        ("[0.0, 1.0, 0.0, -0.5]", "[0.0, 2.0, 0.0, -1.0]", r"third row of length 2"),
        ("[0.0, 1.0, 0.0, -0.5]", "[0.0, 1.0, 0.0, -500.5]", r"puts the camera \d+ m from"),
        ("[0.0, 1.0, 0.0, -0.5]", "[0.0, 1.0, 0.0, .nan]", r"projection.*finite"),
        ("[1266.4, 816.3,", "[-1266.4, 816.3,", r"mirrors the scene"),
        ("- [0.0, 1.0, 0.0, -0.5]", "", r"key 'cameras.front.projection"),
        (
            "min_depth",
            "mindepth",
            r"unknown key 'cameras.front.mindepth'; did you mean 'min_depth'",
        ),
        ("cameras:", "cameras: [", r"not valid YAML"),
    ],
)
def test_faulty_files(root, old, new, message) -> None:
    (root / "calibration.yaml").write_text(EXAMPLE.replace(old, new))
    with pytest.raises(UserError, match=message):
        build(root).load(0)


def test_camera_that_is_not_calibrated(root) -> None:
    with pytest.raises(
        UserError, match=r"camera rear of dataset.cameras is not calibrated\. The file names front"
    ):
        build(root, cameras=["front", "rear"])


def test_missing_images_are_gaps_of_jobs_with_cameras(root) -> None:
    assert build(root).gaps() == []
    (root / "images" / "front" / "s1.jpg").unlink()
    (gap,) = build(root).gaps()
    assert gap.needed_for == "cameras" and gap.text.startswith("1 of 2 scans have no image in ")
