"""Who a data set is: its label space, its name, its benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config import Config
from core.datasets import DATASETS, build_dataset, dataset_class
from core.datasets.base import ScanDataset
from core.datasets.benchmark import BENCHMARKS, FORMATS, benchmark, prediction_format
from core.engine.score.jobs import frozen_score
from core.engine.score.robustness import _official
from core.engine.score.submission import SubmissionFolder
from core.engine.score.submission_check import check_submission, open_split
from core.errors import UserError
from core.labels import LABEL_SPACES, PANDASET, SEMANTICKITTI
from core.metrics import SegmentationScore


def build(name: str, root: Path, split: str = "val", **keys: Any) -> ScanDataset:
    section = {"name": name, "root": str(root), "cameras": [], **keys}
    return build_dataset(Config({"dataset": section}), split)


def kitti(root: Path, **keys: Any) -> ScanDataset:
    return build("semantickitti", root, **keys)


def raw_ids(dataset: ScanDataset, index: int = 0) -> np.ndarray:
    path = dataset.files(index).labels
    assert path is not None
    return np.fromfile(path, "<u4") & 0xFFFF


def test_a_reader_takes_the_label_space_that_is_asked_for(tiny_kitti):
    own = kitti(tiny_kitti)
    assert own.labels is SEMANTICKITTI
    raw = raw_ids(own)
    moving = (raw >= 252) & (raw <= 259)
    labels = kitti(tiny_kitti, labels="semantickitti_mos").load(0).labels
    np.testing.assert_array_equal(labels, np.where(raw <= 1, 0, np.where(moving, 2, 1)))
    several = kitti(tiny_kitti, labels="semantickitti_multiscan").load(0).labels
    np.testing.assert_array_equal(several[~moving], own.load(0).labels[~moving])
    assert (several[moving] >= 20).all()


def test_moving_ids_are_classes_of_their_own(tmp_path):
    folder = tmp_path / "sequences" / "08"
    (folder / "velodyne").mkdir(parents=True)
    (folder / "labels").mkdir()
    np.ones((4, 4), np.float32).tofile(folder / "velodyne" / "000000.bin")
    np.array([10, 252, 257, 1 << 16 | 254], np.uint32).tofile(folder / "labels" / "000000.label")
    assert kitti(tmp_path).load(0, cameras=False).labels.tolist() == [1, 1, 5, 6]
    several = kitti(tmp_path, labels="semantickitti_multiscan").load(0, cameras=False)
    assert several.labels.tolist() == [1, 20, 24, 22]
    assert several.instances.tolist() == [0, 0, 0, 1]
    assert kitti(tmp_path, labels="semantickitti_mos").load(0, cameras=False).labels.tolist() == [
        1,
        2,
        2,
        2,
    ]


def test_label_space_of_ones_own_in_any_reader(tiny_nuscenes, tmp_path):
    path = tmp_path / "ground.yaml"
    ids = ", ".join(f"{raw}: {1 if raw == 24 else 2}" for raw in range(32))
    path.write_text(f"classes: [ignore, road, rest]\nmap: {{{ids}}}\n")
    keys = {"version": "v1.0-mini"}
    own = build("nuscenes", tiny_nuscenes, **keys).load(0).labels
    dataset = build("nuscenes", tiny_nuscenes, labels=str(path), **keys)
    assert dataset.labels.classes == ("ignore", "road", "rest")
    np.testing.assert_array_equal(dataset.load(0).labels == 1, own == 11)
    reader = dataset_class(Config({"dataset": {"name": "nuscenes"}}))
    assert reader.label_space(dataset.config) == dataset.labels


def test_an_unknown_label_space_names_those_there_are(tiny_kitti):
    with pytest.raises(UserError, match=r"semantickiti: this label space file does not exist.*mos"):
        kitti(tiny_kitti, labels="semantickiti")


def test_a_synthetic_world_says_so(tiny_kitti, tiny_nuscenes, tmp_path):
    dataset = build("nuscenes", tiny_nuscenes, version="v1.0-mini")
    assert dataset.title == "synthetic world (nuScenes format)"
    assert dataset.describe().startswith("synthetic world (nuScenes format) v1.0-mini val: ")
    assert type(dataset).title == "nuScenes"
    assert kitti(tiny_kitti).describe().startswith("synthetic world (SemanticKITTI format) val: ")
    totals = {"scans": 1, "points": 1, "seconds": 0.0}
    score = SegmentationScore(17)
    with pytest.raises(UserError, match="none of 1 points of 1 scan has a class"):
        frozen_score(score, totals, dataset, split="val", checkpoint="x", checkpoint_sha256="y")
    score.update(torch.tensor([1]), torch.tensor([2]), torch.tensor([5.0]))
    result = frozen_score(
        score,
        totals,
        dataset,
        split="val",
        checkpoint="x",
        checkpoint_sha256="y",
        votes=1,
        extra={},
    )
    assert result.dataset == "synthetic world (nuScenes format)" and result.made_up
    assert result.scored == "synthetic world (nuScenes format) val, 1 of 4 scans"
    assert result.caveat.startswith("Made-up data (synthetic world (nuScenes format)): not comp")
    (tmp_path / "sequences").symlink_to(tiny_kitti / "sequences")  # without its synthetic.json
    assert kitti(tmp_path).title == "SemanticKITTI"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labels": "{stem}.label"}, None),
        ({"labels": "{stem}.label", "label_space": "semantickitti"}, None),
        ({"label_files": "{stem}.label"}, None),
        ({"label_files": "{stem}.label", "label_space": "semantickitti"}, None),
        ({"label_files": "{stem}.none", "labels": "{stem}.label"}, None),  # over a newer default
        ({"label_files": "{stem}.label", "labels": "semantickitti"}, None),
        ({"label_files": "{stem}.label", "labels": None}, "label_files null"),
        (
            {"label_files": "{stem}.label", "labels": "nuscenes", "label_space": "pandaset"},
            "earlier",
        ),
        ({"label_files": "labels"}, r"must contain \{stem\}"),
    ],
)
def test_folder_keys_old_and_new(tmp_path, keys, message):
    np.ones((2, 4), np.float32).tofile(tmp_path / "a.bin")
    np.array([10, 40], np.uint32).tofile(tmp_path / "a.label")
    if message is not None:
        with pytest.raises(UserError, match=message):
            build("folder", tmp_path, "train", **keys)
        return
    dataset = build("folder", tmp_path, "train", **keys)
    assert dataset.load(0).labels.tolist() == [1, 9] and dataset.labels is SEMANTICKITTI


def test_benchmarks_belong_to_their_readers(tiny_kitti):
    for name in DATASETS:
        reader = dataset_class(Config({"dataset": {"name": name}}))
        if name in BENCHMARKS:
            assert reader.benchmark is not None and reader.benchmark.name == name
            assert isinstance(reader.benchmark, type(benchmark(name)))
        else:
            assert reader.benchmark is None
    assert {space.format for space in LABEL_SPACES.values()} <= set(FORMATS)
    with pytest.raises(UserError, match="no format of predictions 'numpy'"):
        prediction_format("numpy")
    part = kitti(tiny_kitti)
    assert not part.is_official and not _official(part)


@pytest.mark.parametrize(
    ("name", "labels", "official"),
    [
        ("semantickitti", None, True),
        ("semantickitti", PANDASET, False),
        ("nuscenes", None, False),
        ("folder", None, False),
    ],
)
def test_published_robustness_speaks_of_the_whole_split(name, labels, official):
    reader = dataset_class(Config({"dataset": {"name": name}}))

    class Official(reader):
        expected = 3

        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return 3

    scans = Official()
    scans.labels = labels or reader.labels
    assert _official(scans) is official


def test_moving_objects_are_submitted_in_their_own_ids(tiny_kitti, tmp_path):
    scans = open_split("semantickitti", tiny_kitti, "val", "", "semantickitti_mos")
    folder = SubmissionFolder(tmp_path, "semantickitti", scans.labels, scans.official_split)
    for index in range(len(scans)):
        count = len(scans.load(index).points)
        classes = (np.arange(count) % 2 + 1).astype(np.uint8)
        folder.write(scans.token(index), classes)
        np.testing.assert_array_equal(folder.read(scans.token(index)), classes)
    written = np.fromfile(tmp_path / "sequences/08/predictions/000000.label", "<u4")
    assert set(written.tolist()) == {9, 251}
    assert list(check_submission(tmp_path, scans)) == []
    faults = list(check_submission(tmp_path, open_split("semantickitti", tiny_kitti, "val", "")))
    assert len(faults) == len(scans) and "id 9 (" in faults[0]


@pytest.mark.parametrize("name", list(FORMATS))
def test_predicted_files_are_read_with_their_bounds(name: str, tmp_path: Path) -> None:
    labels = LABEL_SPACES["semantickitti" if name == "semantickitti" else "nuscenes"]
    files = prediction_format(name)
    classes = np.array([0, 1, labels.num_classes - 1, 3], np.uint8)
    content = files.encode(classes, labels)
    np.testing.assert_array_equal(files.decode(content, labels, tmp_path), classes)
    width = (
        4 if name == "semantickitti" else 1
    )  # bytes of an id; instances in its upper half are none of ours
    wrong = [
        content[:-width] + width * b"\xff",
        content[:-1] if name != "nuscenes" else b"\x40",
        b"\x93NUMPY",
    ]
    for damaged in wrong:
        with pytest.raises(UserError):
            files.decode(damaged, labels, tmp_path)
