"""nuScenes with lidarseg labels (Caesar et al. 2020; Fong et al. 2022): 32-beam keyframes, sweeps and six cameras.

Conventions follow nuscenes-devkit: the chain LiDAR -> ego(LiDAR time) -> global -> ego(camera time) -> camera, the
removal of the vehicle's own returns from extra sweeps, and the official split by scene.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field

from core.contracts import Camera, Points, Scan, Sensor
from core.datasets.base import (
    DatasetConfig,
    Gap,
    Multisweeps,
    Need,
    ScanDataset,
    ScanFiles,
    SplitName,
    near_sensor,
)
from core.datasets.files import listing, on_disk, read_labels, read_points
from core.datasets.find import is_hidden
from core.datasets.images import check_principal_point, open_image
from core.datasets.numbered import first_names
from core.datasets.nuscenes.benchmark import NuScenesBenchmark
from core.datasets.nuscenes.between import SweepScans, sweeps_between
from core.datasets.nuscenes.chains import walk
from core.datasets.nuscenes.index import CAMERAS, open_index
from core.datasets.nuscenes.panoptic import PANOPTIC, read_instances
from core.datasets.nuscenes.parts import expanded
from core.errors import UserError, counted
from core.geometry import chain, invert, projection, rigid, transform
from core.labels import NUSCENES

__all__ = ["NuScenes", "NuScenesConfig"]

_OFFICIAL_COUNTS = {"train": 28130, "val": 6019, "test": 6008}
_PAGE = "nuScenes download page"
_LIDARSEG = f"nuScenes-lidarseg-all-v1.0.tar.bz2, {_PAGE}"
_MIN_DEPTH = 1.0  # m, as in the devkit


class NuScenesConfig(DatasetConfig):
    """``dataset:`` section of nuScenes."""

    version: Literal["v1.0-trainval", "v1.0-mini", "v1.0-test"] = Field(
        "v1.0-trainval",
        description="table folder; with v1.0-trainval the test split is read from v1.0-test",
    )
    multisweeps: Multisweeps = Field(
        Multisweeps(),
        description="num_sweeps records (20 Hz: 1 = 0.05 s) backwards; unless only_past, then forwards until "
        "there are 2 * num_sweeps",
    )
    frames: dict[SplitName, tuple[str, ...]] = Field(
        default_factory=dict,
        description="by split, scene names, sample tokens or LIDAR_TOP sample_data tokens in place of the "
        "official split, {train: [scene-0061]}; parametrizing and verifying are SLidR's parts of the training split",
    )
    instances: bool = Field(False, description="also read the panoptic files where they are")


class NuScenes(ScanDataset):
    """One split of nuScenes. ``Scan.token`` is the LIDAR_TOP sample_data token, which names the submission's files.

    Instances are ``category * 1000 + id`` of the panoptic files, 0 for points without an id.
    """

    Config = NuScenesConfig
    benchmark = NuScenesBenchmark()
    config: NuScenesConfig
    title = "nuScenes"
    labels = NUSCENES
    point_fields = 5  # x, y, z (m), intensity 0..255, ring
    label_dtype = np.dtype("u1")
    sensor = Sensor(beams=32, elevation=(-0.5353, 0.1862), intensity_scale=255.0)  # HDL-32E

    def __init__(self, config: NuScenesConfig, split: str) -> None:
        """Open the index and list the split's keyframes whose files are all there.

        Raises:
            UserError: the root, a table or the lidarseg labels are missing, a name in ``frames`` or ``cameras`` is
                unknown, or no keyframe is left.
        """
        super().__init__(config, split)
        self.version: str = config.version
        if split == "test" and config.version == "v1.0-trainval":
            self.version = "v1.0-test"
        self.image_source = f"Images come from the file blobs of {self.version}, {_PAGE}"
        self.cameras = CAMERAS if config.cameras is None else config.cameras
        if unknown := set(self.cameras) - set(CAMERAS):
            raise UserError(
                f"nuScenes has no camera {', '.join(sorted(unknown))}",
                cure=f"dataset.cameras may name {CAMERAS}",
            )
        self.index = open_index(self.root, self.version)
        self.labelled = config.use_labels and split != "test"
        if self.labelled:
            cure = f"Labels come from {_LIDARSEG}; unpack it over dataset.root. For label-free jobs set "
            self._need_table("lidarseg", cure + "dataset.use_labels false")
        panoptic = self.root / self.version / "panoptic.json"
        if self.labelled and config.instances and panoptic.is_file():
            self._need_table("panoptic", PANOPTIC)
        if self.split in config.frames:
            wanted = self._select(config.frames[self.split])
        else:
            wanted = self._official()
        self._keys = self._whole(wanted)
        if not len(self._keys):
            why = (
                "; ".join(gap.text for gap in self._gaps)
                or f"{self.version} has no scene of this split"
            )
            raise UserError(
                f"the {split} split is empty: {why}",
                where=str(self.root),
                cure="Check dataset.version, or name scenes or sample tokens in dataset.frames",
            )
        if self.labelled:
            self._note_unread()
        self.warn_of_unread()

    def _need_table(self, name: str, cure: str) -> None:
        if name in self.index.damaged:
            where = str(self.root / self.version / f"{name}.json")
            raise UserError(self.index.damaged[name], where=where, cure=cure)

    def _official(self) -> np.ndarray:
        return np.flatnonzero(self.index.scene_split[self.index.key_scene] == self.split.encode())

    def _select(self, names: tuple[str, ...]) -> np.ndarray:
        index = self.index
        columns = (
            index.scene_name[index.key_scene],
            index.key_sample,
            index.lidar_token[index.key_lidar],
        )
        training = index.scene_name[index.scene_split == b"train"]
        given = expanded(names, [name.decode() for name in training.tolist()])
        wanted = np.array([name.encode() for name in given], "S")
        known = np.isin(wanted, np.concatenate([np.asarray(column) for column in columns]))
        if not known.all():
            raise UserError(
                f"dataset.frames.{self.split} names {wanted[~known][0].decode()}, which {self.version} does not have",
                where=str(self.root / self.version),
                cure="Give scene names (scene-0061), sample tokens, or LIDAR_TOP sample_data tokens",
            )
        return np.flatnonzero(np.any([np.isin(column, wanted) for column in columns], 0))

    def _whole(self, keys: np.ndarray) -> np.ndarray:
        """The keyframes whose scan, labels and sweeps are on disk; the others are noted as gaps."""
        index = self.index
        there = on_disk(self.root, index.lidar_file[index.key_lidar[keys]])
        self._note(
            ~there, keys, f"have no scan; they come from the file blobs of {self.version}, {_PAGE}"
        )
        keys = keys[there]
        if self.labelled:
            there = on_disk(self.root, index.key_lidarseg[keys])
            self._note(~there, keys, f"have no label file; they come from {_LIDARSEG}")
            keys = keys[there]
        there = self._joins_whole(index.key_lidar[keys])
        self._note(~there, keys, f"miss a sweep; {self._sweeps_come}")
        return keys[there]

    def _joins_whole(self, rows: np.ndarray) -> np.ndarray:
        """Bool [N]: all sweeps that ``multisweeps`` joins to the scan of a row of the index are on disk."""
        if not self.config.multisweeps.num_sweeps:
            return np.ones(len(rows), bool)
        chains = walk(self.index, rows, self.config.multisweeps)
        used = np.unique(chains[chains >= 0])
        lost = used[~on_disk(self.root, self.index.lidar_file[used])]
        return ~np.isin(chains, lost).any(1)

    def between(self) -> SweepScans:
        """The sweeps between the split's keyframes that are on disk, with all that ``multisweeps`` joins to them.

        Raises:
            UserError: there are none.
        """
        rows, scenes = sweeps_between(self.index, self._keys)
        there = on_disk(self.root, self.index.lidar_file[rows])
        there[there] = self._joins_whole(rows[there])
        lost = f"{int((~there).sum())} of {len(rows)} sweeps between keyframes are not there"
        if not there.any():
            raise UserError(
                f"the {self.split} split has no sweep between its keyframes: {lost}",
                where=f"{self.root}, key 'dataset.unlabelled'",
                cure=f"{self._sweeps_come}; or take 'sweeps' out of dataset.unlabelled",
            )
        gaps = [] if there.all() else [Gap(f"{lost}; {self._sweeps_come}", "sweeps")]
        return SweepScans(self, self.index, rows[there], scenes[there], self._scan_of, gaps)

    @property
    def _sweeps_come(self) -> str:
        return f"sweeps come from the file blobs of {self.version}, {_PAGE}"

    def _note(
        self, absent: np.ndarray, keys: np.ndarray, what: str, needed_for: Need = "lidar"
    ) -> None:
        if absent.any():
            scenes = len(np.unique(self.index.key_scene[keys[absent]]))
            text = f"{int(absent.sum())} of {len(keys)} keyframes ({scenes} scenes) {what}"
            self._gaps.append(Gap(text, needed_for))

    def _note_unread(self) -> None:
        """Note label files that the table does not name."""
        files = [PurePosixPath(name.decode()) for name in self.index.key_lidarseg if name]
        for folder in {file.parent for file in files}:
            known = {file.name for file in files}
            names = sorted(name for name in listing(self.root / folder) if not is_hidden(name))
            names = [name for name in names if name not in known]
            if names:
                what = f"{len(names)} files are in no row of lidarseg.json and are not read"
                text = f"{folder}: {what} ({first_names(names)})"
                self._gaps.append(Gap(text, "nothing", unread=True))

    def __len__(self) -> int:
        return len(self._keys)

    def token(self, index: int) -> str:
        """nuScenes' sample_data token of the keyframe's scan."""
        return self.index.lidar_token[self.index.key_lidar[self._keys[index]]].decode()

    def sample_token(self, index: int) -> str:
        """nuScenes' sample token of scan ``index``."""
        return self.index.key_sample[self._keys[index]].decode()

    def scene(self, index: int) -> str:
        """Name of the scene that scan ``index`` belongs to."""
        return self.index.scene_name[self.index.key_scene[self._keys[index]]].decode()

    def drive(self, index: int) -> str:
        """The scene."""
        return self.scene(index)

    @cached_property
    def _positions(self) -> dict[str, int]:
        tokens = self.index.lidar_token[self.index.key_lidar[self._keys]]
        return {token.decode(): i for i, token in enumerate(tokens)}

    def index_of(self, token: str) -> int:
        """Position of the scan with that sample_data token."""
        if token not in self._positions:
            raise self._unknown_token(token)
        return self._positions[token]

    def gaps(self) -> list[Gap]:
        """What was noted while the split was opened, and how many keyframes miss an image."""
        files = self.index.cam_file[self._keys]
        if not (files != b"").any():
            return [*self._gaps, Gap(f"the tables of {self.version} list no image", "cameras")]
        there = on_disk(self.root, files).all(1)
        if there.all():
            return list(self._gaps)
        count = int((~there).sum())
        scenes = len(np.unique(self.index.key_scene[self._keys[~there]]))
        text = f"{count} of {len(there)} keyframes ({scenes} scenes) miss an image; images come from the file blobs"
        return [*self._gaps, Gap(f"{text} of {self.version}, {_PAGE}", "cameras")]

    def _official_count(self) -> int | None:
        """Keyframes of the official split, None in the mini version and where ``frames`` chooses some."""
        if self.version == "v1.0-mini" or self.split in self.config.frames:
            return None
        return _OFFICIAL_COUNTS[self.split]

    @property
    def official_split(self) -> str:
        """The devkit's name of the split; the mini version has splits of its own."""
        if self.version == "v1.0-mini":
            return f"mini_{self.split}"
        return self.split

    def files(self, index: int) -> ScanFiles:
        """The scan, its lidarseg labels and the keyframe's image of each camera."""
        key = self._keys[index]
        labels = None
        if self.labelled:
            labels = self.root / self.index.key_lidarseg[key].decode()
        images = {}
        listed = self.index.cam_file[key]
        if (listed != b"").any():
            for name in self.cameras:
                images[name] = self.root / listed[CAMERAS.index(name)].decode()
        points = self._scan_file(self.index.key_lidar[key])
        return ScanFiles(points=points, labels=labels, images=images)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the keyframe and the sweeps that ``multisweeps`` asks for."""
        key = self._keys[index]
        row = self.index.key_lidar[key]
        files = self.files(index)
        own = self._points(files.points)
        label = self._labels(files, len(own))
        own = own.having(label=label, instance=self._instances(key, label))
        scan = self._joined(row, own)
        if not cameras:
            return scan
        return replace(scan, cameras=self._cameras(key, files, scan.pose))

    def _scan_of(self, row: int) -> Scan:
        """The scan of a row of the index, keyframe or sweep, without labels and cameras."""
        return self._joined(row, self._points(self._scan_file(row)))

    def _joined(self, row: int, own: Points) -> Scan:
        """The scan of a row of the index, the sweeps that ``multisweeps`` asks for after its own points."""
        parts = [own]
        world_from_lidar = self._world_from_lidar(row)
        for sweep in self._sweeps(row):
            parts.append(self._sweep(row, sweep, invert(world_from_lidar), len(parts)))
        return Scan(
            token=self.index.lidar_token[row].decode(),
            points=Points.join(*parts),
            sensor=self.sensor,
            pose=world_from_lidar,
        )

    def _scan_file(self, row: int) -> Path:
        return self.root / self.index.lidar_file[row].decode()

    def _points(self, path: Path) -> Points:
        values = read_points(path, self.point_fields, used=5)
        xyz = np.ascontiguousarray(values[:, :3])
        intensity = np.ascontiguousarray(values[:, 3])
        return Points(xyz=xyz, intensity=intensity, beam=_beam(values[:, 4]))

    def _sweep(self, row: int, sweep: int, lidar_from_world: np.ndarray, number: int) -> Points:
        """Points of the sweep in row ``sweep`` in the frame of row ``row``, without the vehicle's own returns."""
        points = self._points(self._scan_file(sweep))
        points = points.take(~near_sensor(points["xyz"]))
        moved = chain(lidar_from_world, self._world_from_lidar(sweep))
        lag = (self.index.lidar_time[row] - self.index.lidar_time[sweep]) * 1e-6
        return points.having(xyz=transform(moved, points["xyz"])).as_sweep(number, lag)

    def _sweeps(self, row: int) -> list[int]:
        if not self.config.multisweeps.num_sweeps:
            return []
        chains = walk(self.index, np.array([row]), self.config.multisweeps)[0]
        return [int(sweep) for sweep in chains if sweep >= 0]

    def _labels(self, files: ScanFiles, count: int) -> np.ndarray | None:
        """u8 [N] train ids of the keyframe's points."""
        if files.labels is None:
            return None
        raw = read_labels(files.labels, self.label_dtype, count)
        return self.labels.to_train(raw, files.labels)

    def _instances(self, key: int, label: np.ndarray | None) -> np.ndarray | None:
        name = self.index.key_panoptic[key].decode()
        if label is None or not self.config.instances or not name:
            return None
        return read_instances(self.root / name, label, self.labels)

    def _world_from_lidar(self, row: int) -> np.ndarray:
        ego_from_lidar = _rigid(self.index.calib_pose[self.index.lidar_calib[row]])
        return chain(_rigid(self.index.lidar_ego[row]), ego_from_lidar)

    def _cameras(
        self, key: int, files: ScanFiles, world_from_lidar: np.ndarray
    ) -> tuple[Camera, ...]:
        cameras = []
        for name, path in files.images.items():
            column = CAMERAS.index(name)
            if not path.is_file():
                raise self.no_image(name, path)
            calib = self.index.cam_calib[key, column]
            ego_from_camera = _rigid(self.index.calib_pose[calib])
            world_from_camera = chain(_rigid(self.index.cam_ego[key, column]), ego_from_camera)
            camera_from_lidar = chain(invert(world_from_camera), world_from_lidar)
            matrix = projection(self.index.calib_matrix[calib], camera_from_lidar)
            width, height = self.index.cam_size[key, column]
            size = (int(width), int(height))
            table = self.root / self.version / "calibrated_sensor.json"
            check_principal_point(self.index.calib_matrix[calib], size, path, table)
            cameras.append(Camera(name, size, matrix, open_image(path, size), _MIN_DEPTH))
        return tuple(cameras)

    def describe(self) -> str:
        """One line that also names the version and counts the scenes."""
        scenes = len(np.unique(self.index.key_scene[self._keys]))
        held = f"{counted(len(self), 'keyframe')} of {counted(scenes, 'scene')}"
        return f"{self.title} {self.version} {self.split}: {held} in {self.root}"


def _rigid(pose: np.ndarray) -> np.ndarray:
    return rigid(pose[3:], pose[:3])


def _beam(ring: np.ndarray) -> np.ndarray | None:
    """I16 [N], the laser of each point from 1; None where the file does not tell."""
    told = (np.rint(ring) == ring).all() and ring.min() >= 0 and 0 < ring.max() < 1024
    return ring.astype(np.int16) + np.int16(1) if told else None
