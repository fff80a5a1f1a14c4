"""WDCD against the published formula in float64, point by point; batches without what moves; whose logits are asked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.contracts import Batch, Output, Points, Scan
from core.data import DataConfig, collate, keyframe_voxels, make_sample, voxels_to_points
from core.distill import TeacherOutput
from core.distill.wdcd import WDCD, nontarget_rows, target_rows
from core.errors import UserError
from core.losses import CrossEntropyLovasz

CLASSES = ("ignore", "static", "movable", "moving")
WEIGHTS = (0.0, 1.0716, 22.0882, 421.3364)
MOVING = 3
T = 4.0
EPS = 1e-8  # of the published code


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(value / T) for value in logits]
    return [power / sum(powers) for power in powers]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a + EPS) - math.log(b + EPS)) for a, b in zip(p, q))


def reference(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[float, float]:
    """NCKD and TCKD of the paper, by loops."""
    nontarget = weight = target = moving = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist()):
        if y == 0:
            continue
        others = [c for c in range(4) if c != y]
        a, b = (softmax([logits[c] for c in others]) for logits in (t, s))
        nontarget += WEIGHTS[y] * divergence(a, b)
        weight += WEIGHTS[y]
        if y == MOVING:
            pt, ps = softmax(t)[MOVING], softmax(s)[MOVING]
            target += divergence([pt, 1 - pt], [ps, 1 - ps])
            moving += 1
    return nontarget / weight, target / moving if moving else 0.0


class Fixed(nn.Module):
    """A network whose logits are a parameter."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, batch: Batch) -> Output:
        return Output(self.logits)


def batch_of(labels: list[int], logits: Tensor | None = None) -> Batch:
    """A point per label, three to a cell; with a column of logits where they are given."""
    count = len(labels)
    xyz = np.zeros((count, 3), np.float32)
    xyz[:, 0] = np.arange(count) // 3
    column = None if logits is None else logits.numpy()
    points = Points(
        xyz=xyz,
        intensity=np.zeros(count, np.float32),
        label=np.array(labels, np.uint8),
        said=column,
    )
    data = DataConfig(voxel_size=1.0, augment=None)
    return collate([make_sample(Scan("s", points), 0, data)])


LABELS = [1, 2, 3, 0, 1, 3, 2, 2, 0, 3, 1, 1]


def random_logits(rows: int, seed: int) -> Tensor:
    return 5 * torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def method(batch: Batch, **options: object) -> WDCD:
    config = WDCD.Config(name="wdcd", **options)
    made = WDCD(config, Fixed(random_logits(len(batch.cells), 1)), None, CrossEntropyLovasz())
    made.name_classes(CLASSES)
    return made


def test_the_published_formula_point_by_point():
    teacher = random_logits(12, 2)
    batch = batch_of(LABELS, teacher)
    made = method(batch, logits="said")
    losses = made(batch)
    own = voxels_to_points(made.student.logits, batch).double()
    nontarget, target = reference(own, teacher.double(), torch.tensor(LABELS))
    assert losses["nontarget"].item() == pytest.approx(0.3 * 3 * nontarget, rel=1e-5)
    assert losses["target"].item() == pytest.approx(0.3 * target, rel=1e-5)
    assert set(losses) == {"ce", "lovasz", "nontarget", "target"}


def test_the_form_first_published():
    teacher = random_logits(12, 2)
    batch = batch_of(LABELS, teacher)
    options = {"w_nontarget": 0, "w_target": 0, "w_weighted_kl": 0.5}
    made = method(batch, logits="said", **options)
    own = voxels_to_points(made.student.logits, batch).tolist()
    total = weight = 0.0
    for s, t, y in zip(own, teacher.tolist(), LABELS):
        total += WEIGHTS[y] * divergence(softmax(t), softmax(s))
        weight += WEIGHTS[y]
    losses = made(batch)
    assert losses["weighted_kl"].item() == pytest.approx(0.5 * total / weight, rel=1e-5)
    assert set(losses) == {"ce", "lovasz", "weighted_kl"}


def test_what_changes_a_term_and_what_does_not():
    labels = torch.tensor([1, 2, 3, 3])
    s, t = random_logits(4, 3), random_logits(4, 4)
    nontarget, target = nontarget_rows(s, t, labels, T), target_rows(s, t, MOVING, T)
    assert nontarget_rows(t, t, labels, T).abs().max() < 1e-6
    assert target_rows(t, t, MOVING, T).abs().max() < 1e-6
    moved = t + torch.tensor([[7.0], [-3], [2], [100]])
    torch.testing.assert_close(nontarget_rows(s, moved, labels, T), nontarget)
    torch.testing.assert_close(target_rows(s, moved, MOVING, T), target, rtol=1e-4, atol=1e-6)
    permuted = t[:, [2, 0, 1, 3]]  # classes that are not "moving"
    torch.testing.assert_close(target_rows(s, permuted, MOVING, T), target)
    assert not torch.allclose(nontarget_rows(s, permuted, labels, T)[2:], nontarget[2:])


@pytest.mark.parametrize("labels", [[1, 2, 1, 0, 2, 1], [0] * 6])
def test_a_batch_in_which_nothing_moves(labels):
    batch = batch_of(labels, random_logits(6, 2))
    made = method(batch, logits="said")
    losses = made(batch)
    assert losses["target"].item() == 0
    assert (losses["nontarget"] > 0).item() == any(labels)
    sum(losses.values()).backward()
    assert made.student.logits.grad.isfinite().all()


def test_gradients_reach_labelled_points_alone():
    labels = [0, 0, 0, 1, 0, 0, 3, 3, 3]
    teacher = random_logits(9, 2)
    teacher[6:] = 0  # not known
    batch = batch_of(labels, teacher)
    made = method(batch, logits="said")
    losses = made(batch)
    (losses["nontarget"] + losses["target"]).backward()
    touched = made.student.logits.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, True, False]
    assert losses["target"].item() == 0


def test_the_teacher_says_the_class_of_points_without_a_label():
    teacher = random_logits(12, 2)
    teacher[3] = torch.tensor([9.0, 1, 2, 3])  # "ignore" is what it finds likeliest: no class
    batch = batch_of(LABELS, teacher)
    made = method(batch, logits="said", unlabelled="teacher")
    losses = made(batch)
    labels = torch.tensor(LABELS)
    assert LABELS[3] == LABELS[8] == 0
    labels[8] = teacher[8].argmax()
    assert labels[8] > 0
    own = voxels_to_points(made.student.logits, batch).double()
    nontarget, target = reference(own, teacher.double(), labels)
    assert losses["nontarget"].item() == pytest.approx(0.3 * 3 * nontarget, rel=1e-5)
    assert losses["target"].item() == pytest.approx(0.3 * target, rel=1e-5)


def test_extreme_logits_are_finite():
    s = torch.tensor([[-1e4, 0.0, 1e4, -1e4]], requires_grad=True)
    t = torch.tensor([[1e4, -1e4, 0.0, 1e4]])
    loss = nontarget_rows(s, t, torch.tensor([3]), T) + target_rows(s, t, MOVING, T)
    loss.sum().backward()
    assert loss.isfinite().all() and s.grad.isfinite().all()


def test_a_teacher_answers_at_the_points_of_its_own_view():
    batch = batch_of(LABELS)
    said = random_logits(6, 7)
    view = collate(
        [
            make_sample(
                Scan(
                    "s", Points(xyz=batch.points["xyz"].numpy(), intensity=np.zeros(12, np.float32))
                ),
                0,
                DataConfig(voxel_size=0.5, augment=None),
            )
        ]
    )
    known = TeacherOutput(("s",), view.coords, keyframe_voxels(view), said[: len(view.cells)], ())
    logits, there = known.at_points(batch)
    assert there.all()
    torch.testing.assert_close(logits, voxels_to_points(said[: len(view.cells)], view))
    by_column = batch_of(LABELS, logits)
    live, stored = method(batch), method(by_column, logits="said")
    torch.testing.assert_close(live(batch, known), stored(by_column))
    with pytest.raises(UserError, match="different scans"):
        replace(known, tokens=("t",)).at_points(batch)


def test_a_teacher_on_the_same_batch_decides_for_points_where_it_can():
    batch = batch_of(LABELS)
    by_cell, by_point = random_logits(len(batch.cells), 7), random_logits(12, 8)
    shared = TeacherOutput.shared(batch, Output(by_cell))
    torch.testing.assert_close(shared.at_points(batch)[0], voxels_to_points(by_cell, batch))
    shared = TeacherOutput.shared(batch, Output(by_cell, point_logits=by_point))
    assert shared.at_points(batch)[0] is by_point


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({"moving": "movin"}, CLASSES, "'movin' is no class.*Did you mean 'moving'"),
        ({}, ("ignore", "static", "moving"), r"4 weights for 3 classes \(ignore, static, moving\)"),
    ],
)
def test_classes_are_checked(options, classes, message):
    made = WDCD(
        WDCD.Config(name="wdcd", **options), Fixed(torch.zeros(1, 4)), None, CrossEntropyLovasz()
    )
    with pytest.raises(UserError, match=message):
        made.name_classes(classes)


def test_the_column_is_checked_and_a_teacher_is_asked_for_without_it():
    batch = batch_of(LABELS, random_logits(12, 2)[:, :3])
    for name in ("said", "other"):
        with pytest.raises(UserError, match=f"column '{name}' shall hold logits of 4 classes"):
            method(batch, logits=name)(batch)
    assert WDCD.Config(name="wdcd").needs.teacher == ("logits",)
    assert WDCD.Config(name="wdcd", logits="said").needs.teacher == ()
