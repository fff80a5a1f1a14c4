"""A network's logits on disk: row by row those of the network, written once, of one network and one scan."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import TOY_LABELS, random_checkpoint

from core.config import Config
from core.contracts import Output
from core.data import ChosenScans, DataConfig, collate
from core.datasets import DATASETS, build_dataset
from core.distill import TeacherOutput
from core.distill.wdcd import WDCD
from core.engine.run.distributed import World
from core.engine.score.teacher_logits import write_teacher_logits
from core.engine.train.jobs import train_student
from core.engine.train.stored_logits import check_stored_logits
from core.errors import UserError
from core.losses import CrossEntropyLovasz
from core.models import build_model

VIEW = {"voxel_size": 0.5, "augment": None}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DATASETS, "toy", "toys:ToyReader")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield


def tree(**column: Any) -> dict[str, Any]:
    return {
        "num_epochs": 1,
        "batch_size": 1,
        "workers_per_gpu": 0,
        "model": {"name": "minkunet", "cr": 0.1},
        "data": dict(VIEW),
        "dataset": {"name": "toy"} | column,
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return random_checkpoint(Config(tree()), TOY_LABELS, tmp_path / "teacher.pt")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A student's, in other voxels than the teacher's."""
    column = {"file": "logits/{token}.npz", "key": "logits", "channels": 3, "train_only": True}
    student = tree(root=str(tmp_path), columns={"said": column})
    student["data"] = {"voxel_size": 2.0}
    student["distill"] = {"name": "wdcd", "logits": "said"}
    return Config(student)


def network_of(checkpoint: Path) -> torch.nn.Module:
    network = build_model(Config(tree()), 3)
    network.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return network.eval()


def test_each_row_is_what_the_network_says_of_that_point(config, checkpoint):
    writer = write_teacher_logits(World(), config, checkpoint)
    network, scans = network_of(checkpoint), build_dataset(config, "train")
    data = DataConfig(**VIEW)
    for index in (0, 3):
        sample = ChosenScans(scans, data, [index]).recipe.sample(scans.read(index), index)
        batch = collate([sample])
        with torch.no_grad():
            logits = network(batch).logits[batch.point_to_voxel]
        stored = torch.from_numpy(scans.load(index).points["said"])
        torch.testing.assert_close(stored, logits.log_softmax(1), atol=2e-3, rtol=2e-3)
        assert writer.path(index).name == f"train{index}.npz"
    assert "said" not in build_dataset(config, "val").load(0).points


def test_visits_are_the_mean_over_the_views_that_showed_a_point(config, checkpoint):
    """Against a forward pass per visit and a loop over the points."""
    writer = write_teacher_logits(World(), config, checkpoint, visits=3)
    network, scans = network_of(checkpoint), build_dataset(config, "train")
    recipe = ChosenScans(scans, DataConfig(**VIEW), [0]).recipe
    batches = [collate([recipe.sample(scans.read(0), 0, visit=k)]) for k in range(3)]
    with torch.no_grad():
        views = [network(batch).logits[batch.point_to_voxel] for batch in batches]
    assert any(not torch.equal(views[0], view) for view in views[1:])
    expected = torch.zeros_like(views[0])
    for point in range(len(expected)):
        own = [v[point] for v, b in zip(views, batches) if point in b.voxel_to_point.tolist()]
        expected[point] = torch.stack(own or [view[point] for view in views]).mean(0)
    stored = torch.from_numpy(np.load(writer.path(0))["logits"]).float()
    torch.testing.assert_close(stored, expected.log_softmax(1), atol=2e-3, rtol=2e-3)


def test_another_number_of_visits_is_refused(config, checkpoint, tmp_path):
    write_teacher_logits(World(), config, checkpoint, visits=2)
    with pytest.raises(UserError, match=r"another visits \(2\) than those to be written \(1\)"):
        write_teacher_logits(World(), config, checkpoint)


def test_a_network_that_reads_means_has_no_visits(config, tmp_path):
    reads_means = tree()
    reads_means["data"]["cell_features"] = "mean"
    teacher = random_checkpoint(Config(reads_means), TOY_LABELS, tmp_path / "mean.pt")
    with pytest.raises(UserError, match=r"--visits: .*the mean over a voxel's points"):
        write_teacher_logits(World(), config, teacher, visits=2)


def test_a_stored_teacher_teaches_what_a_live_one_does(config, checkpoint):
    write_teacher_logits(World(), config, checkpoint)
    scans = build_dataset(config, "train")
    data = DataConfig(**VIEW)
    batch = collate([ChosenScans(scans, data, [0]).recipe.sample(scans.load(0), 0)])
    with torch.no_grad():
        teacher = TeacherOutput.shared(batch, network_of(checkpoint)(batch))
    torch.manual_seed(1)
    logits = torch.randn(len(batch.cells), 3)
    losses = []
    for name, given in ((None, teacher), ("said", None)):
        options = {"logits": name, "moving": "wall", "class_weight": (0, 1.0, 5.0)}
        made = WDCD(
            WDCD.Config(name="wdcd", **options),
            _Says(logits),
            None,
            CrossEntropyLovasz(),
        )
        made.name_classes(TOY_LABELS.classes)
        losses.append(made(batch, given))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-3)


class _Says(torch.nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, batch: object) -> Output:
        return Output(self.logits)


def test_it_goes_on_and_keeps_what_is_there(config, checkpoint):
    writer = write_teacher_logits(World(), config, checkpoint)
    kept = [writer.path(index) for index in range(len(writer.scans))]
    times = [path.stat().st_mtime_ns for path in kept]
    whole = np.load(kept[1])["logits"]
    kept[1].unlink()
    write_teacher_logits(World(), config, checkpoint)
    assert np.array_equal(np.load(kept[1])["logits"], whole)
    again = [path.stat().st_mtime_ns for path in kept]
    assert [a == b for a, b in zip(times, again)] == [True, False, True, True]


def test_logits_of_another_network_or_scan_are_refused(config, checkpoint, tmp_path):
    writer = write_teacher_logits(World(), config, checkpoint)
    weights = torch.load(checkpoint, weights_only=True)
    weights["model"] = {key: value + 1 for key, value in weights["model"].items()}
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"train0\.npz.*another checkpoint"):
        write_teacher_logits(World(), config, tmp_path / "other.pt")
    shutil.copy(writer.path(2), writer.path(1))
    with pytest.raises(UserError, match=r"train1\.npz.*another scan \(train2\)"):
        write_teacher_logits(World(), config, checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"channels": 4}, "4 channels.*gives 3 values"), ({"key": "maps"}, "key maps")],
)
def test_the_column_has_to_fit(config, checkpoint, change, message):
    config.tree["dataset"]["columns"]["said"] |= change
    with pytest.raises(UserError, match=message):
        write_teacher_logits(World(), config, checkpoint)


def test_the_column_has_to_be_named(config, checkpoint):
    del config.tree["distill"]
    with pytest.raises(UserError, match="nothing says where the logits go"):
        write_teacher_logits(World(), config, checkpoint)
    with pytest.raises(UserError, match="'else' is no column"):
        write_teacher_logits(World(), config, checkpoint, name="else")


def test_logits_are_checked_before_a_training_and_when_they_are_read(config, checkpoint, tmp_path):
    """Whose they are: of these scans, classes and this network; files of other programs have but to be whole."""
    write_teacher_logits(World(), config, checkpoint)
    train = build_dataset(config, "train")
    needs = config.parse(WDCD.Config, "distill").needs
    assert (needs.stored, needs.teacher) == ("said", ())
    check_stored_logits(needs, train)
    check_stored_logits(replace(needs, stored_by=checkpoint), train)
    files = [train.column_files(row)["said"] for row in range(len(train))]

    network = torch.load(checkpoint, weights_only=True)
    first = next(iter(network["model"]))
    network["model"][first] += 1
    other = tmp_path / "other.pt"
    torch.save(network, other)
    with pytest.raises(UserError, match=r"another teacher \(\w{8}\) than .*other\.pt"):
        check_stored_logits(replace(needs, stored_by=other), train)
    kept = files[2].read_bytes()
    files[2].unlink()
    with pytest.raises(UserError, match=f"1 scan of {len(files)} have no logits"):
        check_stored_logits(needs, train)
    write_teacher_logits(World(), config, checkpoint)
    assert files[2].read_bytes() == kept

    shutil.copy(files[1], files[2])
    with pytest.raises(
        UserError, match=rf"of scan {train.token(1)}; those of scan {train.token(2)}"
    ):
        train.load(2)
    with pytest.raises(UserError, match="of scan"):
        check_stored_logits(needs, train)
    second = deepcopy(config)
    second.tree["dataset"]["columns"]["said"]["file"] = "second/{token}.npz"
    write_teacher_logits(World(), second, other)
    shutil.copy(build_dataset(second, "train").column_files(2)["said"], files[2])
    with pytest.raises(UserError, match=r"of another teacher .* than .*npz"):
        check_stored_logits(needs, train)

    rows = len(train.read(2).points)
    np.savez(files[2], logits=np.ones((rows, 3), np.float16))
    assert train.load(2).points["said"].shape == (rows, 3)
    with pytest.raises(UserError, match=r"another teacher \(not said\)"):
        check_stored_logits(needs, train)
    for row, path in enumerate(files):
        np.savez(path, logits=np.ones((len(train.read(row).points), 3), np.float16))
    check_stored_logits(needs, train)  # all of another program
    with pytest.raises(UserError, match=r"another teacher \(not said\)"):
        check_stored_logits(replace(needs, stored_by=checkpoint), train)
    np.savez(files[2], logits=np.ones((rows - 1, 3), np.float16))
    with pytest.raises(UserError, match=f"'said' has {rows - 1} rows.*{rows}"):
        train.load(2)


def test_a_training_looks_at_the_logits_before_its_first_step(config, checkpoint, tmp_path):
    write_teacher_logits(World(), config, checkpoint)
    build_dataset(config, "train").column_files(1)["said"].unlink()
    with pytest.raises(UserError, match=r"1 scan of .* no logits"):
        train_student(World(), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
