"""Writes the superpixels of every image of a data set, one file per image."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.config import Config
from core.contracts import Camera
from core.data.made_with import note_settings
from core.data.superpixels.objects import ObjectConfig, find_objects, merge_on_objects
from core.data.superpixels.slic import SlicConfig, slic
from core.datasets import build_dataset, dataset_class
from core.datasets.base import ScanDataset
from core.datasets.planes import NO_LABEL, plane_file
from core.errors import UserError, counted
from core.io import write_bytes
from core.locks import sole_writer
from core.names import SUPERPIXELS
from core.processes import shared_work

__all__ = ["SETTINGS", "VERSION", "SuperpixelReport", "default_folder", "write_superpixels"]

SETTINGS = "superpixels.json"  # in the folder: what the superpixels were made with
VERSION = 2  # of the algorithm: another one gives other superpixels for the same settings
_NEEDLESS = ("planes", "columns", "labelled", "unlabelled", "pseudo_labels", "multisweeps")
Task = tuple[int, int]  # position of the split, and of the scan in it


@dataclass(frozen=True)
class SuperpixelReport:
    """What a command has written.

    Attributes:
        images: i64 [N] superpixels of each image written now. found: images that had their file already.
    """

    images: np.ndarray
    found: int

    def text(self) -> str:
        """One line for a person."""
        line = f"{counted(len(self.images), 'image')} written, {self.found} found"
        if not len(self.images):
            return line
        few, many = int(self.images.min()), int(self.images.max())
        return f"{line}; {few} to {many} superpixels, median {np.median(self.images):.0f}"


def write_superpixels(
    config: Config,
    out: Path,
    settings: SlicConfig,
    splits: Sequence[str] = ("train", "val"),
    workers: int = 1,
    objects: ObjectConfig | None = None,
) -> SuperpixelReport:
    """Write the superpixels of every image of some splits that ``out`` has no file of; a killed command goes on.

    Args:
        config: its ``dataset`` names the scans. workers: processes.
        objects: of the scan, on which superpixels are merged; None = they stay as the image has them.

    Raises:
        UserError: ``out`` holds superpixels of other settings, a scan has no camera, or an image is damaged.
    """
    scans = [_images_alone(config, split) for split in splits]
    tasks = [(k, index) for k, split in enumerate(scans) for index in range(len(split))]
    written: list[int] = []
    found = 0
    with sole_writer(out, "--out"):
        _begin(out, settings, objects)
        writer = _Writer(tuple(scans), out, settings, objects)
        count = min(workers, len(tasks))
        with shared_work(writer, tasks, count, "--workers", writer.named) as results:
            bar = tqdm(results, total=len(tasks), unit="scan", disable=not sys.stderr.isatty())
            for counts, there in bar:
                written += counts
                found += there
    return SuperpixelReport(np.array(written, np.int64), found)


def default_folder(config: Config) -> Path:
    """``dataset.planes.superpixels``, where a training of this configuration looks for them.

    Raises:
        UserError: the key is not set.
    """
    section = config.parse(dataset_class(config).Config, "dataset")
    folder = section.planes.get(SUPERPIXELS)
    if folder is None:
        raise UserError(
            "nothing says where the superpixels go",
            where="command line, --out",
            cure=f"Give --out FOLDER, or set dataset.planes.{SUPERPIXELS}",
        )
    return folder


def _images_alone(config: Config, split: str) -> ScanDataset:
    """The split without labels, budgets, sweeps and further maps."""
    config = deepcopy(config)
    for key in _NEEDLESS:
        config.tree["dataset"].pop(key, None)
    config.merge({"use_labels": False}, "prepare_superpixels.py", "dataset")
    return build_dataset(config, split)


def _begin(out: Path, settings: SlicConfig, objects: ObjectConfig | None) -> None:
    """Note what the superpixels are made with, or compare it with what the folder notes.

    Raises:
        UserError: the folder holds others.
    """
    merged_on = None if objects is None else objects.model_dump(mode="json")
    made_with = {"method": "slic", "version": VERSION, "objects": merged_on}
    made_with |= settings.model_dump(mode="json")
    note_settings(out / SETTINGS, made_with, "superpixels")


@dataclass(frozen=True)
class _Writer:
    """Writes those of one scan, in any process."""

    splits: tuple[ScanDataset, ...]
    out: Path
    settings: SlicConfig
    objects: ObjectConfig | None

    def named(self, task: Task) -> str:
        """The scan's token."""
        return self.splits[task[0]].token(task[1])

    def __call__(self, task: Task) -> tuple[list[int], int]:
        """Superpixels of each image written now, and how many images had a file."""
        split = self.splits[task[0]]
        images = split.files(task[1]).images
        if not images:
            split.check_images()
        missing = []
        for camera in images:
            if not plane_file(self.out, self.named(task), camera).is_file():
                missing.append(camera)
        if not missing:
            return [], len(images)
        written = []
        scan = split.load(task[1])
        objects = None if self.objects is None else find_objects(scan.xyz, self.objects)
        for found in scan.cameras:
            if found.name in missing:
                path = plane_file(self.out, self.named(task), found.name)
                labels = slic(found.load(), self.settings)
                if self.objects is not None and objects is not None:
                    labels = _merged(labels, found, scan.xyz, objects, self.objects)
                written.append(self._write(path, labels))
        return written, len(images) - len(missing)

    def _write(self, path: Path, labels: np.ndarray) -> int:
        count = int(labels.max()) + 1
        limit = min(self.settings.segments, NO_LABEL)
        if count > limit:
            raise UserError(
                f"this image falls into {count} superpixels, and {limit} are wanted at most",
                where=str(path),
                cure="Raise --compactness or --sigma, or ask for more with --segments",
            )
        write_bytes(path, png(labels.astype(np.uint16)))
        return count


def _merged(
    labels: np.ndarray, camera: Camera, xyz: np.ndarray, objects: np.ndarray, config: ObjectConfig
) -> np.ndarray:
    """The superpixels of an image with those on one object of the scan made one."""
    uv, _, visible = camera.project(xyz)
    places = uv[visible, ::-1].astype(np.int64)
    return merge_on_objects(labels, places, objects[visible], config)


def png(labels: np.ndarray) -> bytes:
    """A PNG of 16 bits of u16 [H, W]."""
    from PIL import Image  # jobs without cameras never import it

    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "PNG")
    return stream.getvalue()
