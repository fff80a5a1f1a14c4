"""Batches with a share of unlabelled scans: composition, coverage, processes, resume."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.shares import SharedSampler
from core.errors import UserError

LABELLED = np.isin(np.arange(20), (3, 7, 11))


def indices(sampler: SharedSampler) -> list[list[int]]:
    return [[key.index for key in batch] for batch in sampler]


def test_every_batch_has_its_share_and_every_scan_comes() -> None:
    batches = indices(SharedSampler(LABELLED, 4, 0.5))
    assert len(batches) == 9  # 17 unlabelled scans, two at a time
    for batch in batches:
        assert LABELLED[batch].tolist() == [True, True, False, False]
    seen = np.bincount(np.ravel(batches), minlength=20)
    assert seen.min() >= 1
    assert seen[LABELLED].tolist() == [6, 6, 6]


def test_processes_share_the_steps_of_one() -> None:
    parts = [indices(SharedSampler(LABELLED, 2, 0.5, rank=r, world=2)) for r in range(2)]
    assert len(parts[0]) == len(parts[1]) == 9
    for first, second in zip(*parts):
        assert LABELLED[first].tolist() == LABELLED[second].tolist() == [True, False]
    together = np.concatenate([np.ravel(part) for part in parts])
    assert len(set(together.tolist())) == 20


def test_an_epoch_goes_on_where_it_stopped_and_the_next_differs() -> None:
    sampler = SharedSampler(LABELLED, 4, 0.25, seed=5)
    whole = indices(sampler)
    sampler.set_epoch(0, 3)
    assert indices(sampler) == whole[3:]
    sampler.set_epoch(1)
    assert indices(sampler) != whole


@pytest.mark.parametrize(
    ("batch", "share", "message"), [(1, 0.5, "no labelled"), (4, 0.1, "no unlabelled")]
)
def test_a_batch_that_cannot_hold_both(batch: int, share: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SharedSampler(LABELLED, batch, share + (0.1 if batch == 1 else 0))


def test_two_processes_are_one_with_a_doubled_batch() -> None:
    """Step by step, also where an epoch goes on in its middle."""
    whole = SharedSampler(LABELLED, 8, 0.25, seed=3)
    parts = [SharedSampler(LABELLED, 4, 0.25, rank=rank, world=2, seed=3) for rank in range(2)]
    for sampler in (whole, *parts):
        sampler.set_epoch(2, 1)
    one, first, second = (indices(sampler) for sampler in (whole, *parts))
    assert len(one) == len(first) == len(second) > 1
    for step, batch in enumerate(one):
        assert sorted(batch) == sorted(first[step] + second[step])


def test_accumulated_batches_are_one_doubled_batch() -> None:
    """Two batches of an optimiser step hold the scans of one batch of twice the size."""
    whole = indices(SharedSampler(LABELLED, 8, 0.5, seed=3))
    halves = indices(SharedSampler(LABELLED, 4, 0.5, seed=3))
    assert len(whole) > 1
    for step, batch in enumerate(whole[: len(halves) // 2]):
        assert sorted(batch) == sorted(halves[2 * step] + halves[2 * step + 1])


def test_a_batch_that_is_too_small_names_the_key() -> None:
    with pytest.raises(UserError, match=r"dataset\.unlabelled_share"):
        SharedSampler(LABELLED, 1, 0.5)
