"""2DPASS with scans that have no labels: who teaches there, and what their presence leaves as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.config import Config, load_config
from core.contracts import Batch
from core.distill import Needs, TeacherOutput
from core.distill.twodpass import MSFSKD
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import build_trainer
from core.losses import CrossEntropyLovasz
from core.models import build_model

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from camera_scene import camera_batch
from made_samples import with_labels, with_visible

CLASSES = 17
SUPERVISED = ("ce", "lovasz", "balanced", "scale", "fused", "joint")  # beginnings of names


def make_method(**options: object) -> MSFSKD:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = {"name": "twodpass", "hidden": 8}
        student = build_model(Config(tree={"model": model}), CLASSES)
        config = MSFSKD.Config(name="2dpass", **({"image": {"encoder": "resnet18"}} | options))
        method = MSFSKD(config, student, None, CrossEntropyLovasz(1.0, 1.0, w_balanced=1.0))
        with torch.no_grad():
            for parameter in (*method.heads.parameters(), *method.fusions.parameters()):
                parameter.mul_(3)  # predictions that differ
    return method.eval()  # batch statistics stay put


def unlabelled(batch: Batch, scan: int) -> Batch:
    """The batch with one of its scans stripped of labels."""
    labels = torch.where(batch.coords[:, 0] == scan, 0, batch.labels)
    return with_labels(batch, labels)


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean over the rows, in float64."""
    p, q = teacher.double().softmax(1), student.double().softmax(1)
    return float((p * (p / q).log()).sum() / len(p))


def joint_prediction(method: MSFSKD, batch: Batch) -> tuple[Tensor, Tensor]:
    """The cell of each (cell, camera) in view, and what is predicted there from all scales' fused features."""
    scales = method.student(batch).encoder_stages
    read, fused = method._fused(batch, scales)
    return read.point, method.classifier(torch.cat(fused, 1))


# --- who teaches ----------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_the_joint_prediction_teaches_scales_and_output() -> None:
    options = {"teacher_head": "joint", "w_kl": 2.0, "w_kl_output": 3.0}
    method = make_method(kl_reduction="batchmean", **options)
    batch = unlabelled(camera_batch(0, 1, cameras=2), 1)
    points, joint = joint_prediction(method, batch)
    assert (batch.coords[points, 0] == 1).any(), "unlabelled cells are in view"
    output = method.student(batch)
    scales = [
        divergence(joint, head(scale.feats)[scale.rows[points]])
        for head, scale in zip(method.heads, output.encoder_stages)
    ]
    losses = method(batch)
    assert float(losses["kl"]) == pytest.approx(2.0 / 4 * sum(scales), rel=1e-4)
    expected = 3.0 * divergence(joint, output.logits[points])
    assert float(losses["output_kl"]) == pytest.approx(expected, rel=1e-4)
    published = make_method(kl_reduction="batchmean")(batch)
    assert "output_kl" not in published and float(published["kl"]) != float(losses["kl"])


@torch.no_grad()
def test_rows_are_chosen_by_label_and_confidence() -> None:
    batch = unlabelled(camera_batch(0, 1, cameras=1), 1)
    points, joint = joint_prediction(make_method(), batch)
    output = make_method().student(batch)
    labels, probability = batch.labels[points], joint.softmax(1).amax(1)
    sure = float(probability.median())
    chosen = {
        "labelled": labels != 0,
        "right": joint.argmax(1) == labels,
        "all": torch.ones_like(labels, dtype=torch.bool),
    }
    for mask, rows in chosen.items():
        method = make_method(mask=mask, confidence=sure, w_kl_output=1.0, kl_reduction="batchmean")
        method.name_classes([str(i) for i in range(CLASSES)])
        rows = rows & (probability >= sure)
        expected = 0.0
        if rows.any():
            expected = divergence(joint[rows], output.logits[points[rows]])
        found = float(method(batch)["output_kl"])
        assert found == pytest.approx(expected, rel=1e-4), mask


def test_the_joint_prediction_is_a_fixed_target() -> None:
    method = make_method(teacher_head="joint", w_kl_output=1.0)
    losses = method(unlabelled(camera_batch(0, 1), 1))
    (losses["kl"] + losses["output_kl"]).backward()
    beside = [method.image, method.fusions, method.classifier]
    assert all(p.grad is None for module in beside for p in module.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.student.head.parameters())


@torch.no_grad()
def test_another_teacher() -> None:
    """Its logits are targets wherever it has a cell, in view or not."""
    method = make_method(w_teacher=0.5)
    assert method.config.needs == Needs(images=True, teacher=("logits",))
    batch = unlabelled(camera_batch(0, 1), 1)
    cells = len(batch.coords)
    logits = 3 * torch.randn(cells, CLASSES, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(2))
    links = torch.where(order < cells // 4, -1, order)  # in this scene points are cells
    taught = TeacherOutput(batch.tokens, batch.coords, links, logits, ())
    known = links >= 0
    expected = 0.5 * divergence(logits[links[known]], method.student(batch).logits[known])
    losses = method(batch, taught)
    assert float(losses["teacher_kl"]) == pytest.approx(expected, rel=1e-4)
    assert losses.keys() - method(batch).keys() == {"teacher_kl"}
    baseline = make_baseline(w_teacher=0.5)
    assert baseline(batch, taught).keys() == {"ce", "lovasz", "balanced", "teacher_kl"}


def make_baseline(**options: object) -> MSFSKD:
    student = build_model(Config(tree={"model": {"name": "twodpass", "hidden": 8}}), CLASSES)
    config = MSFSKD.Config(name="2dpass", mode="baseline", **options)
    return MSFSKD(config, student, None, CrossEntropyLovasz(1.0, 1.0, w_balanced=1.0)).eval()


@torch.no_grad()
def test_an_average_teaches_what_images_show() -> None:
    """Where a camera looks the joint prediction, of several cameras the first; the student's elsewhere."""
    method, batch = make_method(), camera_batch(0, 1, cameras=2)
    points, joint = joint_prediction(method, batch)
    counts = torch.bincount(points, minlength=len(batch.coords))
    assert set(counts.tolist()) == {0, 1, 2}
    first = {}
    for row, point in enumerate(points.tolist()):
        first.setdefault(point, row)
    taught, alone = method.teach(batch).logits, method.student(batch).logits
    for cell in range(len(batch.coords)):
        expected = joint[first[cell]] if cell in first else alone[cell]
        assert torch.equal(taught[cell], expected)
    nothing = with_visible(batch, torch.zeros_like(batch.visible))
    assert torch.equal(method.teach(nothing).logits, alone)


# --- scans without labels -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scan", [0, 1])
@torch.no_grad()
def test_a_scan_without_labels_leaves_the_supervised_terms(scan: int) -> None:
    """Their means are over labelled cells alone."""
    method = make_method(teacher_head="joint", w_kl_output=1.0)
    both = unlabelled(camera_batch(0, 1), scan)
    alone = method(both.take([1 - scan]))
    joined = method(both)
    names = [name for name in alone if name.startswith(SUPERVISED)]
    assert len(names) == 3 + 3 * 2
    for name in names:
        assert float(alone[name]) > 0
        assert float(joined[name]) == pytest.approx(float(alone[name]), rel=2e-6), name
    for name in ("kl", "output_kl"):
        assert float(joined[name]) != pytest.approx(float(alone[name]), rel=1e-3), name


@pytest.mark.parametrize("seen", [0.35, 0.0])
def test_a_batch_without_any_label(seen: float) -> None:
    """Supervised terms are zero, and every parameter takes part (DistributedDataParallel waits for it)."""
    method = make_method(teacher_head="joint", w_kl_output=1.0, kl_mean="classes").train()
    batch = camera_batch(0, 1, seen=seen)
    losses = method(with_labels(batch, torch.zeros_like(batch.labels)))
    torch.stack(list(losses.values())).sum().backward()
    for name, value in losses.items():
        taught = name in ("kl", "output_kl") and seen > 0
        assert (float(value.detach()) > 0) == taught, name
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_labels_out_of_view_alone() -> None:
    """Terms at the points in view are zero, those of the network are not."""
    batch = camera_batch(0, 1)
    hidden = torch.where(batch.visible.any(0), 0, batch.labels)
    losses = make_method()(with_labels(batch, hidden))
    assert all(
        (float(losses[f"{kind}_ce"].detach()) > 0) == (kind == "scale")
        for kind in ("scale", "fused", "joint")
    )
    assert float(losses["ce"].detach()) > 0 and float(losses["kl"].detach()) > 0


RUN = """
num_epochs: 1
batch_size: 2
workers_per_gpu: 0
dataset: {{name: nuscenes, root: {root}, version: v1.0-mini, labelled: {{fraction: 0.5}}, unlabelled: rest}}
data: {{voxel_size: 0.2, images: true, image_size: [32, 24], train_cameras: 1}}
model: {{name: twodpass, hidden: 4}}
distill: {{name: 2dpass, image: {{encoder: resnet18}}, teacher_head: joint, w_kl_output: 1, w_teacher: 1}}
teacher: {{source: ema}}
train: {{ema: 0.9}}
scheduler: {{warmup_steps: 0}}
"""


def test_a_step_with_the_average_of_the_whole_method(tiny_nuscenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(root=tiny_nuscenes))
    context = Context.open(load_config(str(path), []), World())
    train_set = context.dataset("train", training=True)
    trainer = build_trainer(context, train_set, RunDir(tmp_path / "run"), None)
    trainer.steps.set_epoch(1)
    batch = next(iter(trainer.steps))[0]
    assert [(batch.labels[batch.coords[:, 0] == scan] > 0).any() for scan in (0, 1)] == [
        True,
        False,
    ]
    losses = trainer.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    assert float(losses["teacher_kl"].detach()) > 0 and trainer._update() > 0
    averaged = trainer.average.module
    assert not averaged.training and all(p.grad is None for p in averaged.parameters())
