"""A trained network labels what nobody labelled: what it says, in which view, together with poses, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import TOY_LABELS, ToyReader, random_checkpoint

import prepare_pseudo_labels
from core.config import Config
from core.data.pseudo.job import label_by_poses
from core.datasets import DATASETS, build_dataset
from core.datasets.pseudo import GivenLabels, read_pseudo
from core.engine.run.distributed import World
from core.engine.run.trained import read_network
from core.engine.score.pseudo_labels import NetworkTeacher, label_by_network
from core.engine.score.segmenter import Segmenter
from core.engine.score.voting import PLAIN
from core.errors import UserError
from core.labels import SEMANTICKITTI, LabelSpace

LABELS = replace(TOY_LABELS, movable=("wall",))
TOKENS = ("train0", "train2")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DATASETS, "toy", "toys:ToyReader")
    monkeypatch.setattr(ToyReader, "labels", LABELS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A student's: other voxels than the teacher's."""
    names = tmp_path / "names"
    names.write_text("\n".join(TOKENS))
    dataset = {"name": "toy", "scans": 5, "labelled": {"file": str(names)}, "unlabelled": "rest"}
    tree = {"dataset": dataset, "data": {"voxel_size": 2.0}, "num_epochs": 1, "batch_size": 2}
    return Config(tree=tree, source="test")


def checkpoint_of(tree: dict[str, object], labels: LabelSpace, path: Path) -> Path:
    """Random weights, in the configuration of a training."""
    settings = {"num_epochs": 1, "batch_size": 1, "workers_per_gpu": 0}
    config = Config(tree=settings | {"model": {"name": "minkunet", "cr": 0.1}} | tree)
    return random_checkpoint(config, labels, path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoint_of(
        {"dataset": {"name": "toy"}, "data": {"voxel_size": 0.5}}, LABELS, tmp_path / "teacher.pt"
    )


def given(config: Config, folder: Path) -> dict[int, GivenLabels]:
    """What was written for the unlabelled scans."""
    dataset = build_dataset(config, "train")
    rows = np.flatnonzero(~dataset.budget).tolist()
    return {index: read_pseudo(folder, dataset.load(index)) for index in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("votes", [1, 3])
def test_it_says_what_the_network_predicts(
    config: Config, checkpoint: Path, tmp_path: Path, votes: int
) -> None:
    """In its own view of the scans; confidence is the probability of the first class."""
    report = label_by_network(World(), config, tmp_path / "out", checkpoint, votes=votes)
    segmenter = Segmenter.load(checkpoint, device="cpu")
    dataset = build_dataset(config, "train")
    found = given(config, tmp_path / "out")
    assert sorted(found) == [1, 3, 4]
    for index, labels in found.items():
        expected = segmenter.predict(dataset.load(index).points, votes=votes)
        assert np.array_equal(labels.label, expected.labels) and labels.source.min() == 2
        best = expected.probabilities.max(1)
        assert np.abs(labels.confidence - best).max() <= 5e-4  # kept in half precision
    assert report.coverage == 1.0 and set(report.sources()) == {"teacher"}


def test_poses_come_first_and_the_network_fills_in(
    config: Config, checkpoint: Path, tmp_path: Path
) -> None:
    label_by_poses(config, tmp_path / "poses", {"radius": 0.4})
    label_by_network(World(), config, tmp_path / "teacher", checkpoint)
    report = label_by_network(
        World(), config, tmp_path / "both", checkpoint, poses={"radius": 0.4}, workers=2
    )
    folders = ("poses", "teacher", "both")
    poses, teacher, both = (given(config, tmp_path / name) for name in folders)
    for index, labels in both.items():
        carried = poses[index].label > 0
        assert 0 < carried.sum() < len(carried)
        assert np.array_equal(labels.source, np.where(carried, 1, 2))
        for name in ("label", "confidence"):
            parts = (getattr(source[index], name) for source in (poses, teacher))
            assert np.array_equal(getattr(labels, name), np.where(carried, *parts))
    strict = with_labels_of(config, tmp_path / "both")
    least = float(np.median(np.concatenate([labels.confidence for labels in teacher.values()])))
    strict.merge({"pseudo_confidence": {"teacher": least}}, "test", "dataset")
    dataset = build_dataset(strict, "train")
    for index, labels in both.items():
        used = (labels.source == 1) | (labels.confidence >= least)
        assert 0 < used.sum() < len(used)
        assert np.array_equal(dataset.load(index).labels, np.where(used, labels.label, 0))
    shares = [source["share"] for source in report.sources().values()]
    assert len(shares) == 2 and sum(shares) == pytest.approx(1)


def test_killed_and_started_again_it_writes_the_same_bytes(
    config: Config, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_by_network(World(), config, tmp_path / "whole", checkpoint, poses={})
    answers = NetworkTeacher.__call__

    def dying(self: NetworkTeacher, indices: list[int]) -> Iterator[GivenLabels]:
        yield from list(answers(self, indices))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkTeacher, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        label_by_network(World(), config, tmp_path / "out", checkpoint, poses={})
    assert len(list((tmp_path / "out").glob("*.npz"))) == 2
    with pytest.raises(UserError, match=r"pseudo_labels\.json.*does not exist"):
        build_dataset(with_labels_of(config, tmp_path / "out"), "train")
    asked: list[int] = []

    def counting(self: NetworkTeacher, indices: list[int]) -> Iterator[GivenLabels]:
        asked.extend(indices)
        return answers(self, indices)

    monkeypatch.setattr(NetworkTeacher, "__call__", counting)
    label_by_network(World(), config, tmp_path / "out", checkpoint, poses={})
    assert asked == [4] and contents(tmp_path / "out") == contents(tmp_path / "whole")


def with_labels_of(config: Config, folder: Path) -> Config:
    given = Config(tree=config.tree, source="test")
    given.merge({"pseudo_labels": str(folder)}, "test", "dataset")
    return given


def test_what_does_not_belong_together_is_refused(
    config: Config, checkpoint: Path, tmp_path: Path
) -> None:
    view = {"dataset": {"name": "toy"}, "data": {"voxel_size": 0.5}}
    foreign = checkpoint_of(view, SEMANTICKITTI, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"19 other classes \(car, bicycle.*'toy' \(2\)"):
        label_by_network(World(), config, tmp_path / "out", foreign)
    assert not (tmp_path / "out").exists()
    label_by_network(World(), config, tmp_path / "out", checkpoint)
    with pytest.raises(UserError, match=r"made from something else \(made_from\)"):
        label_by_network(World(), config, tmp_path / "out", checkpoint, votes=2)
    other = checkpoint_of(
        {"dataset": {"name": "toy"}, "data": {"voxel_size": 1.0}}, LABELS, tmp_path / "other.pt"
    )
    with pytest.raises(UserError, match=r"made from something else \(made_from\)"):
        label_by_network(World(), config, tmp_path / "out", other)


def test_sweeps_are_those_of_its_training(tiny_kitti: Path, tmp_path: Path) -> None:
    """The student's scans, budget and all, with the teacher's sweeps; another reader's say nothing about them."""
    listed = tmp_path / "listed"
    dataset = {"name": "semantickitti", "root": str(tiny_kitti), "labelled": {"fraction": 0.5}}
    student = dataset | {"unlabelled": "rest", "multisweeps": {"num_sweeps": 0}}
    config = Config(tree={"dataset": student}, source="test")
    sweeps = {"multisweeps": {"num_sweeps": 1, "only_past": False, "labelled": True}}
    with pytest.raises(UserError, match=r"multisweeps\.labelled shows the labels of scans"):
        build_dataset(Config(tree={"dataset": dataset | sweeps}, source="test"), "train")
    for reader, expected in (("semantickitti", 1), ("folder", 0)):
        theirs = {"name": reader, "root": "elsewhere", "use_labels": False} | sweeps
        path = checkpoint_of({"dataset": theirs}, SEMANTICKITTI, listed.with_suffix(f".{reader}"))
        teacher = NetworkTeacher.of(World(), config, read_network(path, "test"), PLAIN)
        assert teacher.scans.config.multisweeps.num_sweeps == expected
        assert teacher.scans.config.use_labels and teacher.scans.root == tiny_kitti
        own = build_dataset(config, "train")
        assert teacher.scans.labelled_tokens == own.labelled_tokens


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--source", "poses", "--votes", "3"], "--votes has no effect on --source poses"),
        (["--source", "teacher", "--radius", "1"], "--radius has no effect on --source teacher"),
        (["--source", "both"], "--source both asks a trained network, and none is named"),
        ([], "nothing says where the labels go"),
    ],
)
def test_options_of_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], match: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("dataset: {name: toy}")
    argv = ["prepare_pseudo_labels.py", str(path), *words]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(UserError, match=match):
        prepare_pseudo_labels.main()
