"""Which rows a teacher is asked at, and the mean divergence, against loops in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.distill.soft_targets import SoftTargets
from core.errors import UserError

CLASSES = ("ignore", "road", "car", "cone")
SURE, UNSURE = 0.9, 0.5
LABELS = torch.tensor([1, 2, 0, 3, 1])
SAID = [1, 1, 2, 3, 2]  # the teacher's first class of each row …
PROBABILITY = [SURE, SURE, UNSURE, UNSURE, SURE]  # … and how sure it is


def teacher_logits() -> Tensor:
    rest = len(CLASSES) - 1
    rows = []
    for said, probability in zip(SAID, PROBABILITY):
        row = [math.log((1 - probability) / rest)] * len(CLASSES)
        row[said] = math.log(probability)
        rows.append(row)
    return torch.tensor(rows)


def made(**options: object) -> SoftTargets:
    soft = SoftTargets(SoftTargets.Config(name="any", **options), "global")
    soft.name_classes(CLASSES)
    return soft


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"mask": "labelled"}, [0, 1, 3, 4]),
        ({"mask": "right"}, [0, 3]),
        ({"confidence": 0.7}, [0, 1, 4]),
        ({"confidence": {"car": 0.7}}, [0, 1, 3, 4]),
        ({"confidence": 0.7, "mask": "right"}, [0]),
        ({"confidence": 0.95}, []),
    ],
)
def test_rows_that_are_asked(options: dict, asked: list[int]) -> None:
    soft = made(**options)
    assert soft.asked(teacher_logits(), LABELS).nonzero()[:, 0].tolist() == asked
    known = torch.tensor([False, True, True, True, True])
    kept = [row for row in asked if row > 0]
    assert soft.asked(teacher_logits(), LABELS, known).nonzero()[:, 0].tolist() == kept


def test_all_rows_by_default() -> None:
    assert made().asked(teacher_logits(), LABELS) is None
    known = torch.tensor([True, False, True, True, True])
    assert torch.equal(made().asked(teacher_logits(), LABELS, known), known)


def softmax(row: Tensor, temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row.double().tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(
    ("kl_mean", "shares"),
    [
        ("voxels", {0: 1 / 3, 1: 1 / 3, 4: 1 / 3}),
        ("classes", {0: 1 / 4, 1: 1 / 4, 4: 1 / 2}),  # road twice, car once
    ],
)
def test_mean_divergence(kl_mean: str, shares: dict[int, float]) -> None:
    soft = made(kl_mean=kl_mean, temperature=2.0, confidence=0.7)
    teacher, student = (
        teacher_logits(),
        torch.randn(5, 4, generator=torch.Generator().manual_seed(1)),
    )
    expected = 0.0
    for row, share in shares.items():
        p, q = softmax(teacher[row], 2.0), softmax(student[row], 2.0)
        expected += 4.0 * share * sum(a * math.log(a / b) for a, b in zip(p, q))
    asked = soft.asked(teacher, LABELS)
    assert float(soft.divergence(student, teacher, asked)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kl_mean", ["voxels", "classes"])
def test_no_row_is_zero_and_differentiable(kl_mean: str) -> None:
    soft = made(kl_mean=kl_mean, confidence=0.95)
    student, teacher = torch.zeros(5, 4, requires_grad=True), teacher_logits()
    loss = soft.divergence(student, teacher, soft.asked(teacher, LABELS))
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(student.grad, torch.zeros(5, 4))
    empty = soft.asked(teacher[:0], LABELS[:0])
    assert float(soft.divergence(student[:0], teacher[:0], empty).detach()) == 0


def test_the_teacher_is_a_fixed_target_unless_told() -> None:
    for detach in (True, False):
        student = torch.zeros(5, 4, requires_grad=True)
        teacher = teacher_logits().requires_grad_()
        made().divergence(student, teacher, None, detach=detach).backward()
        assert student.grad.abs().sum() > 0
        assert (teacher.grad is None) == detach


def test_confidence_of_an_unknown_class() -> None:
    with pytest.raises(UserError, match=r"distill\.confidence.*'van' is no class.*car, cone, road"):
        made(confidence={"van": 0.5})


def test_terms_grow_to_their_weight() -> None:
    """exp(-5 (1 - t)^2) of mean teacher, t the share of the ramp that is over; then the whole weight."""
    student, teacher = torch.randn(5, 4), teacher_logits()
    whole = made().divergence(student, teacher, None)
    soft = made(rampup=0.4)
    grown = []
    for progress in (0.0, 0.1, 0.2, 0.4, 0.9):
        soft.progress = progress
        grown.append(float(soft.divergence(student, teacher, None) / whole))
    assert grown == pytest.approx([math.exp(-5), math.exp(-5 * 0.5625), math.exp(-1.25), 1, 1])
