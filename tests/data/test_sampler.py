"""The order of scans: the same for any number of processes, exact on resume, each scan scored once."""

from __future__ import annotations

import itertools

import pytest

from core.data.sampler import EpochSampler, sample_rng
from core.errors import UserError


def indices(sampler: EpochSampler) -> list[list[int]]:
    return [[key.index for key in batch] for batch in sampler]


@pytest.mark.parametrize(
    ("count", "training"), [(24, True), (23, True), (3, True), (24, False), (21, False), (5, False)]
)
def test_two_processes_take_what_one_takes(count, training):
    options = {"seed": 7, "shuffle": True, "training": training}
    ranks = [EpochSampler(count, 3, rank=r, world=2, **options) for r in range(2)]
    alone = EpochSampler(count, 6, **options)
    for sampler in (*ranks, alone):
        sampler.set_epoch(4)
    joined = [a + b for a, b in zip(*map(indices, ranks), strict=True)]
    single = indices(alone)
    assert joined[:-1] == single[:-1]
    assert joined[-1][: len(single[-1])] == single[-1]
    assert len(joined[-1]) - len(single[-1]) <= 1  # a repetition that is marked, see below


def test_training_wraps():
    sampler = EpochSampler(5, 2, seed=1)
    batches = indices(sampler)
    flat = list(itertools.chain(*batches))
    assert len(sampler) == len(batches) == 3
    assert sorted(flat[:5]) == [0, 1, 2, 3, 4]
    assert flat[5] == flat[0]
    assert not any(key.padded for batch in sampler for key in batch)


def test_fewer_scans_than_a_step():
    assert indices(EpochSampler(2, 5, shuffle=False)) == [[0, 1, 0, 1, 0]]


def test_drop_last():
    assert indices(EpochSampler(5, 2, shuffle=False, drop_last=True)) == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match="5 scans do not fill one step of 2 x 3"):
        EpochSampler(5, 3, world=2, drop_last=True)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 11, 12])
@pytest.mark.parametrize(("world", "batch"), [(1, 1), (1, 4), (2, 1), (2, 2), (3, 2), (4, 3)])
def test_evaluation_counts_each_scan_once(count, world, batch):
    samplers = [
        EpochSampler(count, batch, rank=r, world=world, training=False) for r in range(world)
    ]
    assert (
        len({len(list(sampler)) for sampler in samplers}) == 1
    )  # all take the same number of steps
    keys = [key for sampler in samplers for keys in sampler for key in keys]
    assert sorted(key.index for key in keys if not key.padded) == list(range(count))
    assert sum(key.padded for key in keys) < world
    assert all(len(keys) >= 1 for sampler in samplers for keys in sampler)


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = (
        EpochSampler(50, 5, seed=3),
        EpochSampler(50, 5, seed=3),
        EpochSampler(50, 5, seed=4),
    )
    start = indices(first)
    assert start == indices(first) == indices(again) != indices(other)
    first.set_epoch(1)
    assert indices(first) != start
    first.set_epoch(0)
    assert indices(first) == start
    assert indices(EpochSampler(4, 2, training=False)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_resume_within_an_epoch(start):
    whole, resumed = EpochSampler(7, 2, seed=5), EpochSampler(7, 2, seed=5)
    whole.set_epoch(2)
    resumed.set_epoch(2, start_step=start)
    assert list(resumed) == list(whole)[start:]
    assert len(resumed) == 4 - start
    assert resumed.steps_per_epoch == 4
    with pytest.raises(ValueError, match="step 5"):
        resumed.set_epoch(2, start_step=5)


def test_keys_carry_the_epoch_of_their_iteration():
    sampler = EpochSampler(4, 2)
    sampler.set_epoch(3)
    iteration = iter(sampler)
    sampler.set_epoch(4)
    assert {key.epoch for keys in iteration for key in keys} == {3}


def test_no_scans():
    with pytest.raises(UserError, match="no scans"):
        EpochSampler(0, 1)


def test_random_streams():
    def draw(*key: int) -> float:
        return sample_rng(*key).random()

    assert draw(1, 2, 3) == draw(1, 2, 3, 0)
    keys = [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3), (1, 2, 3, 1)]
    assert len({draw(*key) for key in keys}) == len(keys)
