"""Unlabelled scans of a training: the rest of a split, sweeps between keyframes, further scenes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from folder_world import write_scan
from pydantic import ValidationError

from core.config import Config
from core.datasets import build_dataset
from core.datasets.sections import DatasetConfig
from core.datasets.training import TrainingScans
from core.errors import UserError
from core.geometry import invert, rigid, transform

NUSCENES = {"name": "nuscenes", "version": "v1.0-mini"}
FOLDER = {"name": "folder", "scans": "*.bin", "point_fields": 4, "labels": "semantickitti"}


def opened(section: dict[str, object], root: Path, **keys: object) -> TrainingScans:
    tree = {"dataset": section | {"root": str(root)} | keys}
    return build_dataset(Config(tree, source="test"), "train")


@pytest.fixture(scope="module")
def world(tiny_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that the index is not written into the shared world."""
    return Path(shutil.copytree(tiny_nuscenes, tmp_path_factory.mktemp("sweeps") / "root"))


def table(root: Path, name: str) -> dict[str, dict]:
    rows = json.loads((root / "v1.0-mini" / f"{name}.json").read_text())
    return {row["token"]: row for row in rows}


def sweeps_of(root: Path, scene: str) -> list[dict]:
    """Rows of sample_data, by time: the LiDAR sweeps of a scene that are no keyframes."""
    names = {token: row["name"] for token, row in table(root, "scene").items()}
    scenes = {token: names[row["scene_token"]] for token, row in table(root, "sample").items()}
    rows = []
    for row in table(root, "sample_data").values():
        between = row["fileformat"] == "pcd" and not row["is_key_frame"]
        if between and scenes[row["sample_token"]] == scene:
            rows.append(row)
    return sorted(rows, key=lambda row: row["timestamp"])


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("none", ()),
        ([], ()),
        (None, ()),
        ("sweeps", ("sweeps",)),
        (["scenes", "rest", "rest"], ("rest", "scenes")),
    ],
)
def test_one_word_or_a_list(given: object, kinds: tuple[str, ...]) -> None:
    config = DatasetConfig(name="x", root=Path(), unlabelled=given, unlabelled_scenes={"root": "y"})
    assert config.unlabelled == kinds


@pytest.mark.parametrize("given", ["all", ["rest", "none"], 3, {"rest": 1}])
def test_other_words(given: object) -> None:
    with pytest.raises(ValidationError, match="unlabelled"):
        DatasetConfig(name="x", root=Path(), unlabelled=given)


def test_scenes_have_to_be_named() -> None:
    with pytest.raises(ValidationError, match="unlabelled_scenes: give it"):
        DatasetConfig(name="x", root=Path(), unlabelled="scenes")


def test_sweeps_are_those_of_the_tables(world: Path) -> None:
    """Tokens, scenes, points and poses against the tables; no labels, no instances, no cameras."""
    dataset = opened(NUSCENES, world, unlabelled="sweeps", instances=True)
    rows = sweeps_of(world, "scene-0061")
    found = dataset.rows_of("sweeps").tolist()
    assert [dataset.token(index) for index in found] == [row["token"] for row in rows]
    assert dataset.budget.tolist() == [True, True, False, False]
    poses, mounts = table(world, "ego_pose"), table(world, "calibrated_sensor")
    for index, row in zip(found, rows):
        scan = dataset.load(index)
        assert scan.token == row["token"] and dataset.scene(index) == "scene-0061"
        assert dataset.index_of(row["token"]) == index
        values = np.fromfile(world / row["filename"], np.float32).reshape(-1, 5)
        assert np.array_equal(scan.xyz, values[:, :3])
        assert np.array_equal(scan.intensity, values[:, 3])
        assert scan.labels is None and scan.instances is None and scan.cameras == ()
        ego, mount = poses[row["ego_pose_token"]], mounts[row["calibrated_sensor_token"]]
        expected = rigid(np.array(ego["rotation"]), np.array(ego["translation"])) @ rigid(
            np.array(mount["rotation"]), np.array(mount["translation"])
        )
        assert np.allclose(scan.pose, expected, atol=1e-9)
    keyframe = dataset.load(0)
    assert keyframe.labels is not None and keyframe.instances is not None and keyframe.cameras
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy.load(found[0]).xyz, dataset.load(found[0]).xyz)


def test_a_sweep_has_neighbours_of_its_own(world: Path) -> None:
    """The keyframe before and the sweep after it, moved into its frame and with their times."""
    both = {"num_sweeps": 1, "only_past": False}
    dataset = opened(NUSCENES, world, unlabelled="sweeps", multisweeps=both)
    alone = opened(NUSCENES, world, unlabelled="sweeps")
    first, second = dataset.rows_of("sweeps").tolist()
    scan = dataset.load(first)
    assert sorted(np.unique(scan.points["sweep"])) == [0, 1, 2]
    for number, other, lag in ((1, 0, 1 / 6), (2, second, -1 / 6)):
        theirs = alone.load(other, cameras=False)
        near = (np.abs(theirs.xyz[:, 0]) < 1) & (np.abs(theirs.xyz[:, 1]) < 1)
        moved = transform(invert(scan.pose) @ theirs.pose, theirs.xyz[~near])
        rows = scan.points["sweep"] == number
        assert np.allclose(scan.xyz[rows], moved, atol=1e-4)
        assert np.allclose(scan.time_lag[rows], lag, atol=1e-4)


def test_no_label_of_an_unlabelled_scan_is_opened(world: Path, tmp_path: Path) -> None:
    """Label files of the rest may be damaged or gone."""
    root = Path(shutil.copytree(world, tmp_path / "root"))
    keys = {"labelled": {"fraction": 0.5}, "unlabelled": ["rest", "sweeps"], "instances": True}
    dataset = opened(NUSCENES, root, **keys)
    assert dataset.counts() == "4 scans, 1 labelled, 1 rest, 2 sweeps"
    left = int(dataset.rows_of("rest")[0])
    for folder in ("lidarseg", "panoptic"):
        for path in (root / folder).rglob(f"{dataset.token(left)}*"):
            path.write_bytes(b"damaged")
    for index in range(len(dataset)):
        assert (dataset.load(index).labels is not None) == dataset.budget[index]
        assert (dataset.files(index).labels is not None) == dataset.budget[index]
    with pytest.raises(UserError, match="label"):
        dataset.with_labels(left)


def test_sweeps_beside_keyframes_of_another_split_are_left_out(world: Path) -> None:
    """Of two keyframes one is for validation; both sweeps lie between the two."""
    tokens = [opened(NUSCENES, world, unlabelled="sweeps").token(k) for k in range(2)]
    frames = {"train": [tokens[0]], "val": [tokens[1]]}
    with pytest.raises(UserError, match=r"no sweep between.*0 of 0.*dataset\.unlabelled"):
        opened(NUSCENES, world, unlabelled="sweeps", frames=frames)


def test_missing_sweeps_are_told(world: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world, tmp_path / "root"))
    first, second = sweeps_of(root, "scene-0061")
    (root / first["filename"]).unlink()
    dataset = opened(NUSCENES, root, unlabelled="sweeps")
    assert [dataset.token(k) for k in dataset.rows_of("sweeps")] == [second["token"]]
    assert any(
        "1 of 2 sweeps between keyframes are not there" in gap.text for gap in dataset.gaps()
    )
    (root / second["filename"]).unlink()
    with pytest.raises(UserError, match=r"no sweep.*2 of 2.*file blobs"):
        opened(NUSCENES, root, unlabelled="sweeps")


def test_no_label_of_a_neighbour_is_opened(tiny_kitti: Path, tmp_path: Path) -> None:
    """A labelled scan of SemanticKITTI with an unlabelled neighbour, whose label file is damaged."""
    root = Path(shutil.copytree(tiny_kitti, tmp_path / "root"))
    budget = {"fraction": 0.5, "by": "frame"}
    keys = {"labelled": budget, "unlabelled": "rest"}
    both = {"num_sweeps": 1, "only_past": False}
    dataset = opened({"name": "semantickitti"}, root, **keys, multisweeps=both)
    assert dataset.budget.tolist() == [True, False]
    (root / "sequences" / "00" / "labels" / "000001.label").write_bytes(b"damaged")
    first, second = dataset.load(0), dataset.load(1)
    assert first.labels is not None and second.labels is None
    assert (first.labels[first.points["sweep"] == 1] == 0).all() and (
        first.points["sweep"] == 1
    ).any()


def test_where_every_frame_is_a_scan(tiny_kitti: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweeps between.*by: frame.*unlabelled rest"):
        opened({"name": "semantickitti"}, tiny_kitti, unlabelled="sweeps")


def scans_of(folder: Path, numbers: list[int], labelled: int | None = None) -> Path:
    """A folder of scans, the first few of them with labels."""
    folder.mkdir()
    for place, number in enumerate(numbers):
        write_scan(folder, number)
        if labelled is not None and place >= labelled:
            (folder / f"{number:03d}.label").unlink()
    return folder


SPLIT = {"split": {"train": [0, 3], "val": [4, 5]}, "label_files": "{stem}.label"}


def test_scenes_without_what_is_known_already(tmp_path: Path) -> None:
    """Copies under other names: one trains already, one is for validation, two are new."""
    root = scans_of(tmp_path / "own", list(range(6)))
    more = scans_of(tmp_path / "more", [10, 11], labelled=0)
    for number, name in ((1, "090"), (4, "091")):
        shutil.copy(root / f"{number:03d}.bin", more / f"{name}.bin")
    scenes = {"root": str(more), "split": {"train": [0, 3]}}
    keys = SPLIT | {"unlabelled": "scenes", "unlabelled_scenes": scenes}
    dataset = opened(FOLDER, root, **keys)
    found = [dataset.token(k) for k in dataset.rows_of("scenes").tolist()]
    assert found == ["scenes/010", "scenes/011"]
    scan = dataset.load(dataset.index_of("scenes/011"))
    assert scan.token == "scenes/011" and scan.labels is None
    assert np.array_equal(scan.xyz, np.fromfile(more / "011.bin", np.float32).reshape(-1, 4)[:, :3])
    assert dataset.counts() == "6 scans, 4 labelled, 2 scenes"
    with pytest.raises(UserError, match=r"all 4 scans are in the training already"):
        opened(FOLDER, root, **SPLIT, unlabelled="scenes", unlabelled_scenes={})


def test_scenes_of_another_reader(tiny_nuscenes: Path, tmp_path: Path) -> None:
    """Names of scenes and scans are kept apart from those of the split."""
    root = scans_of(tmp_path / "own", list(range(6)))
    scenes = NUSCENES | {"root": str(shutil.copytree(tiny_nuscenes, tmp_path / "world"))}
    keys = SPLIT | {"unlabelled": "scenes", "unlabelled_scenes": scenes}
    dataset = opened(FOLDER, root, **keys)
    assert dataset.counts() == "6 scans, 4 labelled, 2 scenes"
    assert dataset.scene(5) == "scenes/scene-0061" and dataset.num_points(5) > 0
    wrong = scenes | {"root": str(tmp_path / "nowhere")}
    with pytest.raises(UserError, match="nowhere"):
        opened(FOLDER, root, **SPLIT, unlabelled="scenes", unlabelled_scenes=wrong)
    with pytest.raises(UserError, match=r"unlabelled_scenes.*dataset\.scanz"):
        opened(FOLDER, root, **SPLIT, unlabelled="scenes", unlabelled_scenes={"scanz": "*.bin"})


def test_scans_without_label_files_are_the_rest(tmp_path: Path) -> None:
    """Three of six scans are labelled on disk; without a budget the others are unlabelled scans in their places."""
    root = scans_of(tmp_path / "own", [0, 1, 2, 3, 4, 5, 6, 7], labelled=2)
    for number in (6, 7):
        write_scan(root, number)
    keys = {"label_files": "{stem}.label", "split": {"train": [0, 5], "val": [6, 7]}}
    dataset = opened(FOLDER, root, **keys, unlabelled="rest")
    assert [dataset.token(index) for index in range(6)] == [f"00{k}" for k in range(6)]
    assert dataset.budget.tolist() == [True, True] + [False] * 4
    assert all((dataset.load(k).labels is not None) == (k < 2) for k in range(6))
