"""Losses against float64 evaluations of their definitions, on one process and on two."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from core.losses import (
    CrossEntropyLovasz,
    _largest_first,
    class_mean,
    cross_entropy,
    feature_mse,
    kl_divergence,
    lovasz_gradient,
    lovasz_softmax,
    row_mean,
)


# --- references -----------------------------------------------------------------------------------------------------
def naive_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Row by row in float64."""
    numerator, mass = logits.double().sum() * 0.0, 0.0
    for row, label in zip(logits.double(), labels.tolist()):
        if label == 0:
            continue
        w = 1.0 if weight is None else float(weight[label])
        numerator = numerator + w * (torch.log(torch.exp(row).sum()) - row[label])
        mass += w
    return numerator / mass if mass else numerator


def naive_lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """Choquet integral of the Jaccard loss, ``int_0^1 J({i: m_i >= t}) dt``, class by class (Berman et al., eq. 6).

    J(M) = |M| / |{y = c} u M| is evaluated on sets; nothing here sorts voxels or accumulates counts.
    """
    rows = [i for i, label in enumerate(labels.tolist()) if label != 0]
    probabilities = torch.softmax(logits.double()[rows], 1)
    truth = labels[rows].tolist()
    losses = []
    for c in sorted(set(truth)):
        members = {i for i, label in enumerate(truth) if label == c}
        errors = [
            1 - probabilities[i, c] if i in members else probabilities[i, c]
            for i in range(len(rows))
        ]
        total, below = probabilities.sum() * 0.0, 0.0
        for level in sorted(errors, key=lambda error: error.item()):
            wrong = {i for i, error in enumerate(errors) if error.item() >= level.item()}
            total = total + (level - below) * (len(wrong) / len(members | wrong))
            below = level
        losses.append(total)
    return torch.stack(losses).mean() if losses else logits.double().sum() * 0.0


def problem(
    rows: int, classes: int = 5, seed: int = 0, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * 2
    drawn = torch.randint(0, classes, (rows,), generator=generator)
    return logits.requires_grad_(), drawn if labels is None else labels


def assert_same(function, reference, logits: Tensor, labels: Tensor) -> None:
    """Value and gradient agree."""
    value, expected = function(logits, labels), reference(logits, labels)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(value, logits)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, wanted, rtol=2e-5, atol=1e-7)


# --- cross entropy --------------------------------------------------------------------------------------------------
def test_cross_entropy_by_hand() -> None:
    """Uniform logits cost ln 3; (0, ln 2, 0) at class 1 has p = 2/4; the ignored row counts nowhere."""
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, np.log(2), 0.0], [9.0, -9.0, 3.0]])
    labels = torch.tensor([2, 1, 0])
    assert float(cross_entropy(logits, labels)) == pytest.approx(
        (np.log(3) + np.log(2)) / 2, rel=1e-6
    )
    weight = torch.tensor([5.0, 3.0, 1.0])
    assert float(cross_entropy(logits, labels, weight=weight)) == pytest.approx(
        (1 * np.log(3) + 3 * np.log(2)) / 4, rel=1e-6
    )


@pytest.mark.parametrize("weight", [None, [9.0, 0.5, 2.0, 0.0, 1.5]])
def test_cross_entropy_equals_float64(weight: list[float] | None) -> None:
    logits, labels = problem(40)
    w = None if weight is None else torch.tensor(weight)
    assert_same(
        lambda x, y: cross_entropy(x, y, weight=w),
        lambda x, y: naive_cross_entropy(x, y, w),
        logits,
        labels,
    )


def test_ignored_rows_get_no_gradient() -> None:
    logits, labels = problem(30)
    (cross_entropy(logits, labels) + lovasz_softmax(logits, labels)).backward()
    ignored = labels == 0
    assert ignored.any() and not logits.grad[ignored].any() and logits.grad[~ignored].any(1).all()


def test_half_precision_logits_are_computed_in_fp32() -> None:
    logits, labels = problem(30)
    low = logits.detach().bfloat16()
    for function in (cross_entropy, lovasz_softmax):
        assert function(low, labels).dtype == torch.float32
        torch.testing.assert_close(
            function(low, labels), function(low.float(), labels), rtol=0, atol=0
        )


# --- Lovász ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("truth", "gradient"),
    [  # J after each row: 1 - (positives not yet passed) / (positives + negatives passed); differences of that
        ([1, 0, 1], [1 / 2, 1 / 6, 1 / 3]),  # J = 1/2, 2/3, 1
        ([0, 1], [1 / 2, 1 / 2]),  # J = 1/2, 1
        ([1, 1, 0, 0], [1 / 2, 1 / 2, 0, 0]),  # J = 1/2, 1, 1, 1
        ([0, 0, 1, 1], [1 / 3, 1 / 6, 1 / 4, 1 / 4]),  # J = 1/3, 2/4, 3/4, 1
        ([1], [1]),
    ],
)
def test_lovasz_gradient_by_hand(truth: list[int], gradient: list[float]) -> None:
    got = lovasz_gradient(torch.tensor(truth, dtype=torch.float64)[:, None])
    torch.testing.assert_close(got[:, 0], torch.tensor(gradient, dtype=torch.float64))


def test_lovasz_gradient_treats_columns_apart() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    got = lovasz_gradient(truth)
    for column in range(2):
        torch.testing.assert_close(
            got[:, column : column + 1], lovasz_gradient(truth[:, column : column + 1])
        )


def test_lovasz_softmax_by_hand() -> None:
    """Two voxels, classes 1 and 2, probabilities (0, 3/4, 1/4) and (0, 1/2, 1/2), labels 1 and 2.

    Class 1: errors 1/4 (member), 1/2 (not): 1/2 * 1/2 + 1/4 * 1/2 = 3/8. Class 2: errors 1/2 (member), 1/4 (not):
    1/2 * 1 + 1/4 * 0 = 1/2. Mean 7/16.
    """
    logits = torch.log(torch.tensor([[1e-30, 3 / 4, 1 / 4], [1e-30, 1 / 2, 1 / 2]]))
    assert float(lovasz_softmax(logits, torch.tensor([1, 2]))) == pytest.approx(7 / 16, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lovasz_softmax_equals_the_choquet_integral(seed: int) -> None:
    assert_same(lovasz_softmax, naive_lovasz, *problem(40, seed=seed))


@pytest.mark.parametrize("rows", [1, 5000, 40_000])
def test_sorting_by_bits_is_the_stable_sort_of_the_floats(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    errors = torch.rand(rows, 3, generator=generator).bfloat16().float()  # many ties
    errors[:: max(rows // 50, 1), 1:] = torch.tensor([0.0, 1.0])
    errors[rows // 2] = torch.tensor([1e-40, 1.0000001, torch.nan])
    wanted = errors.sort(dim=0, descending=True, stable=True)
    ordered, order = _largest_first(errors)
    assert order.equal(wanted.indices)
    torch.testing.assert_close(ordered, wanted.values, rtol=0, atol=0, equal_nan=True)


def test_absent_classes_are_left_out_of_the_mean() -> None:
    logits, labels = problem(20, labels=torch.tensor([2, 4] * 9 + [0, 0]))
    assert_same(lovasz_softmax, naive_lovasz, logits, labels)


def test_perfect_and_opposite_predictions() -> None:
    labels = torch.tensor([1, 2, 1, 2])
    right = torch.nn.functional.one_hot(labels, 3).float() * 100
    assert float(lovasz_softmax(right, labels)) == pytest.approx(0, abs=1e-6)
    assert float(lovasz_softmax(right[:, [0, 2, 1]], labels)) == pytest.approx(1, abs=1e-6)


# --- nothing to learn from ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [7, 0])
@pytest.mark.parametrize("function", [cross_entropy, lovasz_softmax])
def test_batch_without_labels_is_zero_and_differentiable(function, rows: int) -> None:
    logits, labels = problem(rows, labels=torch.zeros(rows, dtype=torch.int64))
    loss = function(logits, labels)
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad.shape == logits.shape and not logits.grad.any()


def test_only_classes_of_weight_zero_survive_loss_scaling() -> None:
    logits, labels = problem(4, labels=torch.tensor([3, 3, 0, 3]))
    loss = cross_entropy(logits, labels, weight=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))
    (loss * 2.0**16).backward()  # the gradient scaler's first factor
    assert float(loss.detach()) == 0 and not logits.grad.any()


# --- the criterion --------------------------------------------------------------------------------------------------
def test_criterion_names_and_weighs_its_terms() -> None:
    logits, labels = problem(30)
    weight = [1.0, 2.0, 3.0, 4.0, 5.0]
    losses = CrossEntropyLovasz(0.5, 2.0, weight)(logits, labels)
    assert list(losses) == ["ce", "lovasz"]
    torch.testing.assert_close(
        losses["ce"].double(), 0.5 * naive_cross_entropy(logits, labels, torch.tensor(weight))
    )
    torch.testing.assert_close(losses["lovasz"].double(), 2 * naive_lovasz(logits, labels))


def test_criterion_leaves_out_terms_of_weight_zero_and_has_no_state() -> None:
    logits, labels = problem(10)
    assert list(CrossEntropyLovasz(1.0, 0.0)(logits, labels)) == ["ce"]
    assert list(CrossEntropyLovasz(0.0, 1.0)(logits, labels)) == ["lovasz"]
    assert CrossEntropyLovasz(class_weight=[1.0] * 5).state_dict() == {}


def test_rows_outside_the_mask_may_hold_anything() -> None:
    values = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    mean = row_mean(values, torch.tensor([True, False, True]))
    assert float(mean.detach()) == 2.0
    mean.backward()
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert float(row_mean(values.detach(), torch.zeros(3, dtype=torch.bool))) == 0.0


def naive_class_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Mean over classes of the mean within each, one class after the other in float64; class 0 left out."""
    means = [values[labels == c].double().mean() for c in sorted({*labels.tolist()} - {0})]
    return torch.stack(means).mean() if means else values.double().sum() * 0.0


def test_class_mean_counts_a_rare_class_as_much_as_a_common_one() -> None:
    values = torch.tensor([1.0, torch.nan, 3.0, 5.0, 10.0], requires_grad=True)
    mask = torch.tensor([True, False, True, True, True])
    mean = class_mean(values, torch.tensor([2, 2, 2, 2, 4]), mask, 6)
    assert float(mean.detach()) == pytest.approx((3 + 10) / 2)
    mean.backward()
    assert values.grad.tolist() == pytest.approx([1 / 6, 0, 1 / 6, 1 / 6, 1 / 2])
    assert (
        float(class_mean(values.detach(), torch.zeros(5, dtype=torch.int64), mask & False, 6))
        == 0.0
    )


def test_balanced_cross_entropy_is_a_term_of_the_criterion() -> None:
    logits, labels = problem(40, seed=3)
    losses = CrossEntropyLovasz(0.0, 0.0, w_balanced=0.5)(logits, labels)
    per_row = -torch.log_softmax(logits.double(), 1).gather(1, labels[:, None])[:, 0]
    assert list(losses) == ["balanced"]
    torch.testing.assert_close(losses["balanced"].double(), 0.5 * naive_class_mean(per_row, labels))


# --- two processes --------------------------------------------------------------------------------------------------
WEIGHT = torch.tensor([1.0, 0.5, 2.0, 1.5, 3.0])
CASES = {  # rows of rank 0 and rank 1, labels of rank 1 or None = random
    "unequal": (9, 16, None),
    "one_rank_without_labels": (9, 6, [0] * 6),
    "one_rank_without_rows": (9, 0, []),
    "no_labels": (3, 2, [0] * 2),
}


def case(name: str) -> list[tuple[Tensor, Tensor]]:
    first, second, labels = CASES[name]
    parts = [
        problem(first, seed=1),
        problem(second, seed=2, labels=None if labels is None else torch.tensor(labels).long()),
    ]
    return parts if name != "no_labels" else [(x, torch.zeros_like(y)) for x, y in parts]


def loss_functions(scope: str) -> dict:
    return {
        "ce": lambda x, y: cross_entropy(x, y, scope=scope),
        "weighted_ce": lambda x, y: cross_entropy(x, y, weight=WEIGHT, scope=scope),
        "lovasz": lambda x, y: lovasz_softmax(x, y, scope=scope),
        "kl": lambda x, y: kl_divergence(x, teacher_of(x), y != 0, temperature=2.0, scope=scope),
        "balanced_kl": lambda x, y: kl_divergence(x, teacher_of(x), y != 0, classes=y, scope=scope),
        "mse": lambda x, y: feature_mse(x, teacher_of(x), y != 0, scope=scope),
    }


def teacher_of(logits: Tensor) -> Tensor:
    """Some other fixed values for the same rows."""
    return logits.detach().flip(1) * 1.5 + 0.3


def naive_kl(logits: Tensor, labels: Tensor) -> Tensor:
    """``T^2 mean_rows sum_c p_t log(p_t / p_s)`` in float64, T = 2."""
    rows = labels != 0
    p = torch.softmax(teacher_of(logits)[rows].double() / 2, 1)
    q = torch.softmax(logits[rows].double() / 2, 1)
    return 4 * (p * (p / q).log()).sum() / max(int(rows.sum()), 1)


def naive_balanced_kl(logits: Tensor, labels: Tensor) -> Tensor:
    p, q = (torch.softmax(x.double(), 1) for x in (teacher_of(logits), logits))
    return naive_class_mean((p * (p / q).log()).sum(1), labels)


def naive_mse(logits: Tensor, labels: Tensor) -> Tensor:
    rows = labels != 0
    difference = logits[rows].double() - teacher_of(logits)[rows].double()
    return (difference**2).sum() / max(difference.numel(), 1)


REFERENCES = {
    "ce": naive_cross_entropy,
    "weighted_ce": lambda x, y: naive_cross_entropy(x, y, WEIGHT),
    "lovasz": naive_lovasz,
    "kl": naive_kl,
    "balanced_kl": naive_balanced_kl,
    "mse": naive_mse,
}


def _worker(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    results = {}
    for name in CASES:
        logits, labels = case(name)[rank]
        for scope in ("global", "local"):
            for kind, function in loss_functions(scope).items():
                value = function(logits, labels)
                (gradient,) = torch.autograd.grad(value, logits)
                results[f"{name}/{scope}/{kind}"] = (value.detach(), gradient)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """What each rank got, for every case."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.start_processes(
        _worker, (address, str(folder)), nprocs=2, start_method="fork"
    )  # spawning imports torch anew
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", list(REFERENCES))
@pytest.mark.parametrize("name", list(CASES))
def test_global_scope_is_the_joined_batch(two_processes, name: str, kind: str) -> None:
    """The averages over ranks, which DistributedDataParallel forms, are those of one process with all rows."""
    parts = case(name)
    logits = torch.cat([x.detach() for x, _ in parts]).requires_grad_()
    expected = REFERENCES[kind](logits, torch.cat([y for _, y in parts]))
    (wanted,) = torch.autograd.grad(expected, logits)
    values, gradients = zip(*(results[f"{name}/global/{kind}"] for results in two_processes))
    torch.testing.assert_close(
        torch.stack(values).mean().double(), expected.detach(), rtol=2e-6, atol=1e-7
    )
    torch.testing.assert_close(torch.cat(gradients) / 2, wanted, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("kind", list(REFERENCES))
@pytest.mark.parametrize("rank", [0, 1])
def test_local_scope_is_each_process_alone(two_processes, rank: int, kind: str) -> None:
    logits, labels = case("unequal")[rank]
    expected = REFERENCES[kind](logits, labels)
    (wanted,) = torch.autograd.grad(expected, logits)
    value, gradient = two_processes[rank][f"unequal/local/{kind}"]
    torch.testing.assert_close(value.double(), expected.detach(), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(gradient, wanted, rtol=2e-5, atol=1e-7)
