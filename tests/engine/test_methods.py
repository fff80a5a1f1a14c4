"""Methods the package has never heard of: by a registry line alone they train, are scored and resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from folder_world import write_world
from torch import Tensor, nn

from core.config import load_config
from core.contracts import Batch
from core.datasets.base import ScanFiles
from core.datasets.folder import FolderDataset
from core.distill import LOSS, METHODS, Method, Needs, TeacherOutput
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import train, train_student, train_teacher
from core.errors import UserError
from core.labels import LabelSpace

WIDTH = 5


class Stop(Exception):
    """Stands for the end of the process."""


class Toy(Method):
    """Labels, and a weight beside the network that pulls at its logits."""

    stop_after: ClassVar[int | None] = None
    calls: ClassVar[int] = 0

    class Config(Method.Config):
        name: Literal["toy"]
        weight: float = 0.1

    def __init__(self, config: Config, *parts: object) -> None:
        super().__init__(config, *parts)
        self.weight = config.weight
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> dict[str, Tensor]:
        Toy.calls += 1
        if Toy.calls == Toy.stop_after:
            raise Stop
        logits = self.student(batch).logits
        pull = (self.scale * logits - 1).square().mean()
        return self.criterion(logits, batch.labels) | {"pull": self.weight * pull}


class Embedding(Method):
    """No labels: the mean of an embedding shall be the intensity."""

    score = LOSS

    class Config(Method.Config):
        name: Literal["embedding"]

        @property
        def needs(self) -> Needs:
            return Needs(labels=False)

    @classmethod
    def outputs(cls, config: Method.Config, labels: LabelSpace) -> int:
        return WIDTH

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> dict[str, Tensor]:
        mean = self.student(batch).logits.mean(1)
        return {"intensity": (mean - batch.feats[:, 3]).square().mean()}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    new = {"toy": f"{__name__}:Toy", "embedding": f"{__name__}:Embedding"}
    METHODS.update(new)
    yield
    for name in new:
        del METHODS[name]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


def run(config: Path, folder: Path, *overrides: str) -> list[dict]:
    """Train for two epochs; the records of ``scalars.jsonl``."""
    train(World(), load_config(config, ["--num_epochs", "2", *overrides]), folder)
    return RunDir(folder).history()


def shas(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "checkpoints" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items()}


# --- a method with classes ------------------------------------------------------------------------------------------
def test_a_toy_method_is_trained_scored_and_continued(config, tmp_path, monkeypatch) -> None:
    toy = ("--distill.name", "toy", "--train.ema", "0.5")
    records = run(config, tmp_path / "straight", *toy)
    assert [r["loss/pull"] > 0 for r in records if "loss/total" in r] == [True] * 8
    state = read_checkpoint(tmp_path / "straight" / "checkpoints" / "best.pt")
    assert set(state["training_only"]) == {"scale"} and "scale" not in state["model"]
    scored = json.loads((tmp_path / "straight" / "evaluation-val.json").read_text())
    assert scored["num_scans"] == 3 and (tmp_path / "straight" / "report.html").is_file()

    monkeypatch.setattr(Toy, "calls", 0)
    monkeypatch.setattr(Toy, "stop_after", 6)
    with pytest.raises(Stop):
        run(config, tmp_path / "broken", *toy)
    monkeypatch.setattr(Toy, "stop_after", None)
    run(config, tmp_path / "broken", *toy)
    assert shas(tmp_path / "straight") == shas(tmp_path / "broken")


def test_its_keys_are_checked_before_the_run_folder_is_touched(config, tmp_path) -> None:
    with pytest.raises(UserError, match="weigth"):
        run(config, tmp_path / "run", "--distill.name", "toy", "--distill.weigth", "1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("needs", "what"),
    [
        (Needs(images=True), r"key 'data.images'.*learns from images"),
        (Needs(planes=("superpixels",)), r"key 'data.planes'.*the maps superpixels"),
    ],
)
def test_what_a_method_needs_is_asked_of_the_data(
    config, tmp_path, monkeypatch, needs: Needs, what: str
) -> None:
    monkeypatch.setattr(Toy.Config, "needs", needs)
    with pytest.raises(UserError, match=what):
        run(config, tmp_path / "run", "--distill.name", "toy")
    assert not (tmp_path / "run").exists()


# --- labels ---------------------------------------------------------------------------------------------------------
def test_a_method_that_learns_from_labels_refuses_to_go_without(config, tmp_path) -> None:
    with pytest.raises(UserError, match=r"key 'dataset.use_labels'.*none are read"):
        run(config, tmp_path / "run", "--dataset.use_labels", "false")
    with pytest.raises(
        UserError, match=r"no scan of the train split.*nothing to learn.*label_files:"
    ):
        run(config, tmp_path / "run", "--dataset.labels", "semantickitti")
    assert not (tmp_path / "run").exists()


def test_a_val_split_without_labels_cannot_be_scored(config, tmp_path, monkeypatch) -> None:
    files = FolderDataset.files

    def without_val(dataset: FolderDataset, index: int) -> ScanFiles:
        found = files(dataset, index)
        return replace(found, labels=None) if dataset.split == "val" else found

    monkeypatch.setattr(FolderDataset, "files", without_val)
    with pytest.raises(UserError, match=r"no scan of the val split.*nothing can be scored"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_of_images_needs_them_in_evaluation(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Toy.Config, "needs", Needs(images=True))
    options = ("--data.images", "true", "--data.eval_images", "false", "--eval.select", "loss")
    with pytest.raises(UserError, match=r"key 'eval.select'.*data.eval_images"):
        run(config, tmp_path / "run", "--distill.name", "toy", *options)
    assert not (tmp_path / "run").exists()


def test_a_damaged_first_scan_tells_nothing_of_the_scanner(tmp_path) -> None:
    path = write_world(tmp_path / "scans")
    (tmp_path / "scans" / "000.bin").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"000.bin"):
        run(path, tmp_path / "raise")
    run(path, tmp_path / "skip", "--data.on_bad_sample", "skip")
    identity = read_checkpoint(tmp_path / "skip" / "checkpoints" / "last.pt")["identity"]
    assert identity["sensor"]["beams"] > 0


# --- a method without labels ----------------------------------------------------------------------------------------
def test_a_method_without_labels_needs_none(config, tmp_path) -> None:
    options = ("--distill.name", "embedding", "--dataset.use_labels", "false")
    run(config, tmp_path, *options)
    assert RunDir(tmp_path).best().is_file()


@pytest.fixture(scope="module")
def embedding(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    run(config, folder, "--distill.name", "embedding")
    return folder


def test_an_embedding_is_judged_by_its_loss(embedding: Path) -> None:
    records = RunDir(embedding).history()
    values = [r["val_loss/total"] for r in records if "val_loss/total" in r]
    assert len(values) == 2 and all(value > 0 for value in values)
    best = read_checkpoint(RunDir(embedding).best())
    epochs = {r["val_loss/total"]: r["global_step"] for r in records if "val_loss/total" in r}
    assert best["global_step"] == epochs[min(values)]
    assert best["model"]["classifier_vox.0.weight"].shape[0] == WIDTH
    names = {path.name for path in (embedding / "checkpoints").iterdir()}
    assert "max-iou-val-vox.pt" not in names
    assert not (embedding / "report.html").exists(), "there are no classes to report on"


def test_an_embedding_has_no_iou(config, tmp_path) -> None:
    with pytest.raises(UserError, match="no classes"):
        run(config, tmp_path, "--distill.name", "embedding", "--eval.select", "miou")


def test_linear_probing_changes_the_head_alone(config, embedding, tmp_path) -> None:
    probing = ("--train.trainable", "[classifier_vox.]", "--train.init_skip", "[classifier_vox.]")
    for average in (("--train.ema", "0.5"), ("--train.swa_start", "2")):
        folder = tmp_path / average[0]
        run(config, folder, "--train.init_from", str(embedding), *probing, *average)
        before = read_checkpoint(RunDir(embedding).best())["model"]
        state = read_checkpoint(folder / "checkpoints" / "last.pt")
        for weights in (state["model"], state["train_model"]):
            assert weights["classifier_vox.0.weight"].shape[0] == 20
            for name, value in weights.items():
                if not name.startswith("classifier_vox."):
                    assert torch.equal(value, before[name]), name
        assert len(state["optimizer"]["param_groups"][0]["params"]) == 2


# --- what the best is best at ---------------------------------------------------------------------------------------
def test_the_last_weights_may_be_the_best(config, tmp_path) -> None:
    records = run(config, tmp_path, "--eval.select", "none")
    assert not any("iou/val/vox" in r for r in records)
    folder = tmp_path / "checkpoints"
    assert (folder / "best.pt").samefile(folder / "last.pt")
    assert (tmp_path / "report.html").is_file()


def test_named_classes_decide(config, tmp_path) -> None:
    records = run(config, tmp_path, "--eval.select", "[iou/car, iou/road]")
    (_, _), (step, best) = sorted(
        ((r["global_step"], r["iou/val/selected"]) for r in records if "iou/val/selected" in r),
        key=lambda pair: pair[1],
    )
    (at,) = (r for r in records if r["global_step"] == step and "iou/val/vox" in r)
    assert best == pytest.approx((at["iou/val/vox/car"] + at["iou/val/vox/road"]) / 2)
    assert read_checkpoint(RunDir(tmp_path).best())["global_step"] == step


def test_a_supervised_loss_decides(config, tmp_path) -> None:
    records = run(config, tmp_path, "--eval.select", "loss")
    found = [r for r in records if "val_loss/total" in r]
    for record in found:
        parts = record["val_loss/ce"] + record["val_loss/lovasz"]
        assert record["val_loss/total"] == pytest.approx(parts)
    best = min(found, key=lambda record: record["val_loss/total"])
    assert read_checkpoint(RunDir(tmp_path).best())["global_step"] == best["global_step"]


# --- names of one job -----------------------------------------------------------------------------------------------
def test_each_command_says_which_other_one_fits(config, tmp_path) -> None:
    with pytest.raises(UserError, match=r"student's configuration.*train_student.py"):
        train_teacher(World(), load_config(config, ["--distill.name", "toy"]), tmp_path)
    with pytest.raises(UserError, match=r"'distill.name' is missing.*train_teacher.py"):
        train_student(World(), load_config(config), tmp_path)


# --- what a person sees ---------------------------------------------------------------------------------------------
def test_every_line_of_a_run_begins_with_its_name(config, tmp_path, capsys) -> None:
    run(config, tmp_path / "first")
    first = capsys.readouterr().err
    assert "1.36 M parameters" in first and "8 train, 3 val scans" in first
    assert f"{tmp_path / 'first'}   (new" in first and "report    " in first
    epochs = [line[9:] for line in first.splitlines() if "epoch" in line]
    assert len(epochs) == 2 and all(line.startswith("first  epoch ") for line in epochs)
    assert "(best)" in epochs[0] and "left" in epochs[0] and "left" not in epochs[1]
    run(config, tmp_path / "second", "--train.title", "student", "--eval.every", "2")
    second = capsys.readouterr().err
    assert "student  epoch 1/2  loss " in second and "second  epoch" not in second
