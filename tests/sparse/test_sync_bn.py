"""Batch normalisation over two processes against nn.BatchNorm on the joined batch, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from core.sparse import SparseBatchNorm, SparseTensor, SyncBatchNorm, convert_sync_batchnorm

CHANNELS, STEPS = 3, 2


@dataclass(frozen=True)
class Case:
    """Rows per rank, spatial shape, dtype and offset of the inputs of one comparison."""

    rows: tuple[int, int]
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-5
    offset: float = 0.0
    sparse: bool = False
    affine: bool = True

    def inputs(self, step: int) -> list[Tensor]:
        """The inputs of both ranks."""
        g = torch.Generator().manual_seed(step)
        size = (sum(self.rows), CHANNELS, *self.shape)
        x = torch.randn(size, generator=g, dtype=torch.float64) * (1 + step) + self.offset
        return list(x.to(self.dtype).split(list(self.rows)))

    def probes(self) -> list[Tensor]:
        """Gradients of the loss by the outputs of both ranks."""
        size = (sum(self.rows), CHANNELS, *self.shape)
        probe = torch.randn(size, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
        return list(probe.to(self.dtype).split(list(self.rows)))

    def norm(self, kind: type[nn.Module]) -> nn.Module:
        """A layer whose weights and statistics are not the initial ones."""
        layer = kind(CHANNELS, momentum=0.3, affine=self.affine)
        g = torch.Generator().manual_seed(7)
        for value in layer.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=g) + 0.5)
        return layer.to(torch.float64 if self.dtype == torch.float64 else torch.float32)


CASES = {
    "unequal": Case((11, 4)),
    "float64": Case((5, 9), dtype=torch.float64, tolerance=1e-12),
    "images": Case((3, 1), (4, 5)),
    "sequences": Case((2, 3), (7,)),
    "sparse": Case((13, 6), sparse=True),
    "bfloat16": Case((13, 6), dtype=torch.bfloat16, tolerance=2e-2),
    "empty rank": Case((0, 8)),
    "sparse, empty rank": Case((8, 0), sparse=True),
    "one row each": Case((1, 1), tolerance=1e-4),  # two rows: badly conditioned
    "far from zero": Case(
        (40, 24), offset=1000.0, tolerance=1e-3
    ),  # sum of squares - square of sums would fail
    "no weights": Case((6, 5), affine=False),
}
TOO_FEW = {"one row": (1, 0), "no row": (0, 0), "one pixel": (0, 1)}


def sparse_tensor(feats: Tensor) -> SparseTensor:
    coords = torch.zeros(len(feats), 4, dtype=torch.int32)
    coords[:, 1] = torch.arange(len(feats))
    return SparseTensor.from_batch(feats, coords)


def run_case(case: Case, rank: int) -> dict[str, Tensor]:
    """What this rank sees: output, gradients and statistics after the last step."""
    norm = case.norm(SparseBatchNorm if case.sparse else SyncBatchNorm)
    if case.sparse:
        norm = convert_sync_batchnorm(norm)
    for step in range(STEPS):
        x = case.inputs(step)[rank].requires_grad_()
        y = norm(sparse_tensor(x)).feats if case.sparse else norm(x)
    parameters = list(norm.parameters())
    grads = torch.autograd.grad(y, [x, *parameters], case.probes()[rank])
    seen = dict(norm.named_buffers()) | {"y": y.detach(), "x.grad": grads[0]}
    return seen | {f"{name}.grad": g for (name, _), g in zip(norm.named_parameters(), grads[1:])}


def run_too_few(rows: int) -> dict[str, Tensor]:
    """A training step on a batch without variance."""
    norm = Case((1, 1)).norm(SyncBatchNorm)
    x = torch.full((rows, CHANNELS), 3.0, requires_grad=True)
    y = norm(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    return dict(norm.named_buffers()) | {"y": y.detach(), "x.grad": grad}


def worker(rank: int, folder: str) -> None:
    """One of the two processes: every case, results into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {name: run_case(case, rank) for name, case in CASES.items()}
    results |= {name: run_too_few(rows[rank]) for name, rows in TOO_FEW.items()}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """Results of both ranks by case."""
    folder: Path = tmp_path_factory.mktemp("sync_bn")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def reference(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """nn.BatchNorm on the joined batch in float64, with gradients: layer, output, input gradient."""
    norm = case.norm(
        {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[len(case.shape)]
    ).double()
    for step in range(STEPS):
        x = torch.cat(case.inputs(step)).double().requires_grad_()
        y = norm(x)
    y.backward(torch.cat(case.probes()).double())
    return norm, y.detach(), x.grad


@pytest.mark.parametrize("name", CASES)
def test_equals_batch_norm_on_the_joined_batch(ranks, name):
    case, (first, second) = CASES[name], [results[name] for results in ranks]
    norm, y, grad = reference(case)
    close = {"rtol": case.tolerance, "atol": case.tolerance}
    assert first["y"].dtype == case.dtype and first["x.grad"].dtype == case.dtype
    torch.testing.assert_close(torch.cat([first["y"], second["y"]]).double(), y, **close)
    torch.testing.assert_close(
        torch.cat([first["x.grad"], second["x.grad"]]).double(), grad, **close
    )
    for statistic in ("running_mean", "running_var"):
        assert torch.equal(first[statistic], second[statistic])
        torch.testing.assert_close(first[statistic].double(), getattr(norm, statistic), **close)
    assert first["num_batches_tracked"] == second["num_batches_tracked"] == STEPS
    for parameter, value in norm.named_parameters():
        summed = first[f"{parameter}.grad"].double() + second[f"{parameter}.grad"].double()
        torch.testing.assert_close(
            summed, value.grad, rtol=case.tolerance, atol=10 * case.tolerance
        )


@pytest.mark.parametrize("name", TOO_FEW)
def test_a_batch_without_variance_uses_and_keeps_the_running_statistics(ranks, name):
    norm = Case((1, 1)).norm(nn.BatchNorm1d)
    x = torch.full((sum(TOO_FEW[name]), CHANNELS), 3.0, requires_grad=True)
    expected = norm.eval()(x)
    expected.sum().backward()
    results = [r[name] for r in ranks]
    torch.testing.assert_close(torch.cat([r["y"] for r in results]), expected.detach())
    torch.testing.assert_close(torch.cat([r["x.grad"] for r in results]), x.grad)
    for seen in results:
        for buffer, value in norm.named_buffers():
            assert torch.equal(seen[buffer], value)


@pytest.mark.parametrize("kind", [SparseBatchNorm, SyncBatchNorm])
@pytest.mark.parametrize("rows", [0, 1])
def test_one_process_a_batch_without_variance(kind, rows):
    norm = Case((1, 1)).norm(kind)
    before = copy.deepcopy(norm.state_dict())
    x = torch.full((rows, CHANNELS), 3.0)
    y = norm(sparse_tensor(x)).feats if kind is SparseBatchNorm else norm(x)
    deviation = (before["running_var"] + norm.eps).sqrt()
    torch.testing.assert_close(
        y, (x - before["running_mean"]) / deviation * before["weight"] + before["bias"]
    )
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [SparseBatchNorm, SyncBatchNorm])
def test_one_process_equals_batch_norm(kind, training):
    ours, theirs = (Case((1, 1)).norm(k).train(training) for k in (kind, nn.BatchNorm1d))
    x = Case((9, 6)).inputs(0)[0]
    y = ours(sparse_tensor(x)).feats if kind is SparseBatchNorm else ours(x)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_inputs_without_channels_are_refused():
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        SyncBatchNorm(3)(torch.zeros(3))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, SparseBatchNorm])
def test_conversion_keeps_weights_statistics_and_their_names(kind):
    model = nn.Sequential(nn.Linear(3, 3), Case((1, 1)).norm(kind)).eval()
    model[1].weight.requires_grad_(False)  # a frozen layer stays frozen
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    converted = convert_sync_batchnorm(model)
    assert converted is model and all(
        a is b for a, b in zip(model.parameters(), parameters, strict=True)
    )
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert not model[1].training and model[1].momentum == 0.3
    assert isinstance(model[1], SyncBatchNorm) or model[1].sync
    fresh = nn.Sequential(nn.Linear(3, 3), kind(3))
    fresh.load_state_dict(model.state_dict())  # and back
    torch.testing.assert_close(fresh.state_dict(), state, rtol=0, atol=0)
    assert type(convert_sync_batchnorm(model)[1]) is type(model[1])  # twice is once


def test_conversion_of_a_bare_layer():
    assert isinstance(convert_sync_batchnorm(nn.BatchNorm2d(4)), SyncBatchNorm)


def test_conversion_of_a_whole_network():
    from core.models.lidar.minkunet import (
        MinkUNet,
    )  # here, as the two processes import this file too

    model = MinkUNet(MinkUNet.Config(name="minkunet", cr=0.25), 5)
    model.head = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    keys = list(model.state_dict())
    norms = [m for m in model.modules() if isinstance(m, SparseBatchNorm)]
    assert len(norms) > 30 and not any(m.sync for m in norms)
    convert_sync_batchnorm(model)
    assert list(model.state_dict()) == keys
    assert all(m.sync for m in norms)
    assert [type(m) for m in model.head] == [nn.Linear, SyncBatchNorm, nn.Conv2d, SyncBatchNorm]
