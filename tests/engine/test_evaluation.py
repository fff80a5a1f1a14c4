"""From voxel logits to predictions on raw points, and which points count."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_samples import made_sample
from torch import nn

from core.contracts import Batch, Output, Sample
from core.data import collate
from core.engine.run.distributed import World
from core.engine.score.evaluation import counted_points, predict_points, predictions, score_network


def sample(
    index: int,
    point_to_voxel: list[int],
    labels: list[int],
    *,
    keyframe: list[bool] | None = None,
    padded: bool = False,
) -> Sample:
    """Voxels 0..V-1 along x, the points in them as told."""
    to_voxel = np.array(point_to_voxel, np.int64)
    voxels, points = int(to_voxel.max(initial=-1)) + 1, len(to_voxel)
    coords = np.c_[np.arange(voxels), np.zeros((voxels, 2))].astype(np.int32)
    firsts = np.array([int(np.flatnonzero(to_voxel == v)[0]) for v in range(voxels)], np.int64)
    truth = np.array(labels, np.int64)
    return made_sample(
        token=f"scan{index}",
        index=index,
        coords=coords,
        feats=np.zeros((voxels, 4), np.float32),
        labels=truth[firsts],
        point_to_voxel=to_voxel,
        voxel_to_point=firsts,
        point_labels=truth,
        keyframe=np.ones(points, bool) if keyframe is None else np.array(keyframe),
        distance=np.full(points, 5.0, np.float32),
        padded=padded,
        skipped=(f"scan{index}x: cut short",) if padded else (),
    )


def one_hot(classes: list[int], count: int = 4) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(classes), count).float()


# --- predictions ----------------------------------------------------------------------------------------------------
def test_points_take_the_class_of_their_voxel_across_the_batch() -> None:
    batch = collate([sample(0, [0, 1, 0, -1], [1, 1, 1, 1]), sample(1, [1, 0, -1], [1, 1, 1])])
    logits = one_hot([3, 1, 2, 3])
    assert predict_points(Output(logits), batch).tolist() == [3, 1, 3, 0, 3, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ignore_is_never_predicted(dtype: torch.dtype) -> None:
    batch = collate([sample(0, [0, 1, 2], [1, 1, 1])])
    logits = torch.tensor([[9.0, 1.0, 2.0], [0.0, -5.0, -7.0], [1.0, -6e4, -6.1e4]]).to(dtype)
    before = logits.clone()
    predicted = predict_points(Output(logits), batch)
    assert predicted.tolist() == [2, 1, 1] and predicted.dtype == torch.int64
    assert torch.equal(logits, before), "the network's output is not written to"


def test_random_logits_give_a_class_exactly_where_there_is_a_voxel() -> None:
    rng = np.random.default_rng(0)
    to_voxel = np.r_[np.arange(20), rng.integers(-1, 20, 200)]
    batch = collate([sample(0, to_voxel.tolist(), [1] * 220)])
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 100
    predicted = predict_points(Output(logits), batch).numpy()
    assert (to_voxel == -1).any()
    assert ((predicted > 0) == (to_voxel >= 0)).all()


def test_scan_without_a_single_voxel() -> None:
    batch = collate([sample(0, [-1, -1], [1, 2])])
    assert predict_points(Output(torch.zeros(0, 4)), batch).tolist() == [0, 0]


# --- which points count ---------------------------------------------------------------------------------------------
def test_padding_and_sweep_points_do_not_count() -> None:
    batch = collate(
        [
            sample(0, [0, 0, 1], [1, 1, 1], keyframe=[True, False, True]),
            sample(1, [0, 1], [1, 1], padded=True),
            sample(2, [0, -1], [1, 1]),
        ]
    )
    assert counted_points(batch).tolist() == [True, False, True, False, False, True, True]


# --- scoring --------------------------------------------------------------------------------------------------------
class Loader(list):
    """A list of batches with the training loader's interface."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch = (epoch, start_batch)


class Record(list):
    """A list that copies of its owner share."""

    def __deepcopy__(self, memo: dict) -> Record:
        return self


class Fixed(nn.Module):
    """Answers each batch with the next of given logits, and remembers in which mode it was asked."""

    def __init__(self, answers: list[torch.Tensor]) -> None:
        super().__init__()
        self.answers, self.modes = iter(answers), Record()

    def forward(self, batch: Batch) -> Output:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return Output(next(self.answers))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return World()


def test_score_by_hand(on_cpu: World) -> None:
    """Four classes. Counted points (truth, prediction): (1,1) (2,1) (0,1) (2,2) (3,none).

    Class 1: 1 right, 1 more predicted: IoU 1/2. Class 2: 1 right of 2: 1/2. Class 3: 0 of 1. Truth 0 counts nowhere.
    """
    loader = Loader(
        [
            collate([sample(0, [0, 0, 0, 0], [1, 2, 0, 3], keyframe=[True, True, True, False])]),
            collate([sample(1, [0, -1], [2, 3]), sample(1, [0], [3], padded=True)]),
        ]
    )
    network = Fixed([one_hot([1]), one_hot([2, 1])]).train()
    seen = []
    score, totals, skipped = score_network(
        network,
        loader,
        4,
        on_cpu,
        contextlib.nullcontext,
        lambda batch, predicted: seen.append(predicted.tolist()),
    )
    assert totals["scans"] == 2 and totals["points"] == 5 and totals["seconds"] >= 0
    assert skipped == ["scan1x: cut short"] and loader.epoch == (1, 0)
    assert seen == [[1, 1, 1, 1], [2, 0, 1]]
    assert network.modes == [(False, False)] * 2 and network.training
    expected = np.zeros((4, 4), np.int64)
    for truth, predicted in [(1, 1), (2, 1), (2, 2), (3, 0)]:
        expected[truth, predicted] += 1
    assert (score.overall.counts.numpy()[1:] == expected[1:]).all()
    assert score.overall.miou() == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


def test_named_subsets_have_scores_of_their_own(on_cpu: World) -> None:
    """First returns (truth, prediction): (1,1) (2,1). Second: (2,2). The sweep's point and padding count nowhere."""
    first = sample(0, [0, 0, 1, 1], [1, 2, 2, 3], keyframe=[True, True, True, False])
    scans = [first, sample(1, [0], [3], padded=True)]
    for number, scan in enumerate(scans):
        column = np.array([1, 1, 2, 1], np.uint8)[: len(scan.points)]
        scans[number] = replace(scan, points=scan.points.having(**{"return": column}))
    subsets = {"first return": ("return", 1), "second return": ("return", 2), "x": ("nowhere", 1)}
    score, _, _ = score_network(
        Fixed([one_hot([1, 2, 3])]),
        Loader([collate(scans)]),
        4,
        on_cpu,
        contextlib.nullcontext,
        subsets=subsets,
    )
    assert list(score.subsets) == ["first return", "second return"]
    assert score.subsets["first return"].counts[1:].tolist() == [
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]
    assert score.subsets["second return"].miou() == 1.0
    assert score.subsets["first return"].miou() == pytest.approx((1 / 2 + 0) / 2)


def test_training_mode_returns_also_after_an_error(on_cpu: World) -> None:
    network = Fixed([]).train()
    batch = SimpleNamespace(to=lambda device: None)
    with pytest.raises((RuntimeError, StopIteration)):
        list(predictions(network, [batch], on_cpu.device, contextlib.nullcontext, "testing"))
    assert network.training
