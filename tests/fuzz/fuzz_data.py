"""Targets: files of data sets, images, label spaces, calibrations and configurations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import yaml
from fuzz_mutations import (
    BYTES,
    JSON,
    LINES,
    YAML,
    gzipped,
    npy_header,
    png_chunks,
    zipped,
)
from fuzz_runner import Target
from PIL import Image
from test_pandaset import write_sequence as write_pandaset
from test_semantickitti import write_sequence as write_kitti

from core.config import Config, load_config
from core.datasets import build_dataset
from core.datasets.boxes import read_boxes
from core.datasets.calibration import read_calibration
from core.datasets.images import read_image
from core.datasets.nuscenes.index import open_index
from core.datasets.synthetic import WorldSpec, generate
from core.engine.run.experiment import check_config
from core.labels import LabelSpace

import_module("nuscenes.utils.splits")  # takes long; each process would import it anew

ROOT = Path(__file__).resolve().parents[2]
SPACES = ROOT / "core" / "labelspaces"
TINY = {"seed": 3, "keyframes": 2, "image_scale": 0.06, "lidar_scale": 0.15, "workers": 1}


def loaded(root: Path, split: str = "train", /, **section: object) -> object:
    """The first and last scan of a data set, their images and sweeps included."""
    dataset = build_dataset(Config({"dataset": {"root": str(root), **section}}), split)
    found = []
    for index in {0, len(dataset) - 1}:
        scan = dataset.load(index)
        cameras = [(camera.load(), camera.projection) for camera in scan.cameras]
        columns = {name: scan.points[name] for name in scan.points}
        found.append((columns, scan.pose, cameras))
    return found


# --- SemanticKITTI ---------------------------------------------------------------------------------------------------
def kitti(folder: Path) -> None:
    write_kitti(folder, "00", 3)


use_kitti = partial(
    loaded, name="semantickitti", split={"train": ["00"]}, multisweeps={"num_sweeps": 1}
)


def boxes(folder: Path) -> None:
    found = []
    for i, label in enumerate(("Car", "Pickup Truck", "Pedestrian")):
        place = {"center": [4.0 * i, -2.5, 0.25], "lwh": [4.5, 1.9, 1.5], "heading": 0.5 * i}
        found.append({"id": i, "label": label, "points": 0, **place})
    (folder / "000000.json").write_text(json.dumps(found))


def use_boxes(root: Path) -> object:
    found = read_boxes(root / "000000.json")
    return found.names, found.counts(np.zeros((3, 3), np.float32))


# --- nuScenes --------------------------------------------------------------------------------------------------------
nuscenes_world: list[Path] = []  # one that exists already


def nuscenes(folder: Path) -> None:
    """A generated world with its index."""
    if nuscenes_world:
        shutil.copytree(nuscenes_world[0], folder, dirs_exist_ok=True)
    else:
        generate(folder, WorldSpec(format="nuscenes", scenes=3, **TINY))
    open_index(folder, "v1.0-mini")


use_nuscenes = partial(
    loaded, name="nuscenes", version="v1.0-mini", instances=True, multisweeps={"num_sweeps": 1}
)


# --- PandaSet --------------------------------------------------------------------------------------------------------
def pandaset(folder: Path) -> None:
    write_pandaset(folder, "001", 2)


use_pandaset = partial(
    loaded, name="pandaset", cameras=["front_camera"], split={"train": ["001"]}, instances=True,
    multisweeps={"num_sweeps": 1},
)  # fmt: skip


# --- folders of scans -------------------------------------------------------------------------------------------------
def folder_of(save: Callable[[Path, np.ndarray], None], folder: Path) -> None:
    points = np.random.default_rng(0).uniform(2, 9, (50, 4)).astype(np.float32)
    (folder / "a.label").write_bytes(np.full(50, 40, "<u4").tobytes())
    save(folder / "a", points)


def save_npy(path: Path, points: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), points)


def save_npz(path: Path, points: np.ndarray) -> None:
    np.savez_compressed(path.with_suffix(".npz"), points=points)


def save_pcd(path: Path, points: np.ndarray) -> None:
    """The same scan in each encoding."""
    import pypcd4

    cloud = pypcd4.PointCloud.from_xyzi_points(points)
    for encoding in pypcd4.Encoding:
        cloud.save(path.with_name(f"{encoding.value}.pcd"), encoding)
        (path.parent / f"{encoding.value}.label").write_bytes(np.full(50, 40, "<u4").tobytes())


def save_las(path: Path, points: np.ndarray) -> None:
    import laspy

    cloud = laspy.create(point_format=0, file_version="1.2")
    cloud.header.scales = np.full(3, 0.001)
    cloud.x, cloud.y, cloud.z = points[:, 0], points[:, 1], points[:, 2]
    cloud.intensity = (points[:, 3] * 100).astype(np.uint16)
    cloud.write(path.with_suffix(".las"))
    cloud.write(path.with_name("b.laz"))
    shutil.copy(path.with_suffix(".label"), path.with_name("b.label"))


def use_folder(pattern: str, root: Path) -> object:
    count = len(list(root.glob(pattern)))
    keys = {"scans": pattern, "label_files": "{stem}.label", "labels": "semantickitti"}
    return loaded(
        root, name="folder", split={"train": [0, count - 1]}, label_dtype="uint32", **keys
    )


npy = partial(folder_of, save_npy)
npz = partial(folder_of, save_npz)
pcd = partial(folder_of, save_pcd)
las = partial(folder_of, save_las)


# --- images -----------------------------------------------------------------------------------------------------------
def images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    image = Image.fromarray(pixels)
    for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp", "ico", "ppm", "eps", "pdf"):
        image.save(folder / f"image.{kind}")
    image.convert("P").save(folder / "palette.png")
    Image.fromarray(np.arange(192, dtype=np.uint16).reshape(12, 16)).save(folder / "grey16.png")


def use_images(root: Path) -> object:
    """Each right format; each other one has to be refused."""
    found = [
        read_image(root / name) for name in ("image.png", "image.jpeg", "palette.png", "grey16.png")
    ]
    for path in sorted(root.glob("image.*")):
        if path.suffix not in (".png", ".jpeg"):
            _must_be_refused(path)
    return found


def _must_be_refused(path: Path) -> None:
    from core.errors import UserError

    try:
        read_image(path)
    except UserError:
        return
    head = path.read_bytes()[:8]
    if not head.startswith((b"\x89PNG", b"\xff\xd8")):
        raise AssertionError(f"{path.name} was decoded")


# --- YAML -------------------------------------------------------------------------------------------------------------
def spaces(folder: Path) -> None:
    shutil.copy(SPACES / "semantickitti.yaml", folder / "space.yaml")
    text = {
        "classes": ["ignore", "a", "b"],
        "map": {0: 0, 1: 1, 7: 2},
        "colors": [[0, 0, 0], [1, 2, 3], [255, 0, 9]],
    }
    text |= {
        "submit": [0, 1, 7],
        "vehicles": ["a"],
        "things": {"a": {"min_points": 5, "ground": ["b"]}},
        "format": "npy",
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(text))


def use_space(root: Path) -> object:
    found = []
    for path in sorted(root.glob("*.yaml")):
        space = LabelSpace.from_yaml(path)
        found.append(
            (vars(space), space.lut, space.fingerprint, space.to_raw(np.zeros(2, np.uint8)))
        )
    return found


def calibration(folder: Path) -> None:
    camera = {
        "size": [16, 12],
        "projection": [[8.0, 8, 0, 0], [0, 6.0, -8, 0], [0, 1.0, 0, 0]],
        "min_depth": 0.5,
    }
    (folder / "calibration.yaml").write_text(
        yaml.safe_dump({"cameras": {"front": camera, "rear": camera}})
    )


def use_calibration(root: Path) -> object:
    return read_calibration(root / "calibration.yaml")


def configuration(folder: Path) -> None:
    """A few of the shipped files, as one has them in the own folder."""
    for name in ("configs/default.yaml", "configs/synthetic", "configs/recipes"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def use_configuration(root: Path) -> object:
    found = []
    for name in ("minkunet_demo.yaml", "u2mkd/full.yaml", "teacher.yaml"):
        config = load_config(root / "configs" / "synthetic" / name)
        check_config(config)
        config.dump(root / "dumped.yaml")
        again = load_config(root / "dumped.yaml")
        assert str(again.tree) == str(config.tree), "what is dumped reads back as something else"
        found.append(config.tree)
    return found


KITTI = "KITTI .bin, .label"
NUSCENES = "nuScenes .bin, lidarseg, panoptic"
INDEX = "cached nuScenes index"
SETTINGS = "label space, calibration, config YAML"
OTHER = "scans of other formats"
SHIPPED = "configs/synthetic/**/*.yaml"
ZIPPED = (*BYTES, *[zipped] * 4)
GZIPPED = (*BYTES, *[gzipped] * 7)
NPY = (*BYTES, *[npy_header] * 2)

TARGETS = (
    Target("kitti.points", KITTI, kitti, "sequences/*/velodyne/*", use_kitti),
    Target("kitti.labels", KITTI, kitti, "sequences/*/labels/*", use_kitti),
    Target("kitti.text", "calib, poses, times", kitti, "sequences/*/*.txt", use_kitti, LINES),
    Target("boxes", "files of boxes", boxes, "*.json", use_boxes, JSON),
    Target("images", "images", images, "*.*", use_images),
    Target("images.header", "images", images, "*.png", use_images, (png_chunks,)),
    Target("nuscenes.tables", "nuScenes tables", nuscenes, "v1.0-mini/*.json", use_nuscenes, JSON),
    Target("nuscenes.points", NUSCENES, nuscenes, "s*/LIDAR_TOP/*", use_nuscenes),
    Target("nuscenes.lidarseg", NUSCENES, nuscenes, "lidarseg/**/*.bin", use_nuscenes),
    Target("nuscenes.panoptic", NUSCENES, nuscenes, "panoptic/**/*.npz", use_nuscenes, ZIPPED),
    Target("nuscenes.index", INDEX, nuscenes, ".lidistill/*/*", use_nuscenes),
    Target("nuscenes.index.json", INDEX, nuscenes, ".lidistill/*/index.json", use_nuscenes, JSON),
    Target("pandaset.tables", "PandaSet pickles", pandaset, "**/*.pkl.gz", use_pandaset, GZIPPED),
    Target("pandaset.json", "PandaSet JSON", pandaset, "**/*.json", use_pandaset, JSON),
    Target("space", SETTINGS, spaces, "*.yaml", use_space, YAML),
    Target("calibration", SETTINGS, calibration, "*.yaml", use_calibration, YAML),
    Target("config", SETTINGS, configuration, SHIPPED, use_configuration, YAML),
    Target("npy", OTHER, npy, "*.npy", partial(use_folder, "*.npy"), NPY),
    Target("npz", OTHER, npz, "*.npz", partial(use_folder, "*.npz"), ZIPPED),
    Target("pcd", OTHER, pcd, "*.pcd", partial(use_folder, "*.pcd"), LINES),
    Target("las", OTHER, las, "*.las", partial(use_folder, "*.las")),
    Target("laz", OTHER, las, "*.laz", partial(use_folder, "*.laz")),
    Target("npy.labels", OTHER, npy, "*.label", partial(use_folder, "*.npy")),
)
