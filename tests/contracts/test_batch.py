"""Batches: some of their samples are a batch of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_fakes import FakeDataset

from core.contracts import Batch
from core.data import DataConfig, collate, make_sample

CONFIG = DataConfig(voxel_size=0.8, augment=None, images=True, point_range=(-2, -2, -2, 2, 2, 2))


def samples(count: int = 3) -> list:
    scans = FakeDataset(count, cameras=2)
    return [make_sample(scans.load(i), i, CONFIG) for i in range(count)]


def assert_equal(a: Batch, b: Batch) -> None:
    assert (a.tokens, a.indices, a.padded, a.features) == (
        b.tokens,
        b.indices,
        b.padded,
        b.features,
    )
    for name in a.points:
        assert torch.equal(a.points[name], b.points[name]), name
    for name in ("coords", "of_point", "point", "labels", "offsets"):
        assert torch.equal(getattr(a.cells, name), getattr(b.cells, name)), name
    for name in ("images", "pixels", "visible"):
        assert torch.equal(getattr(a.cameras, name), getattr(b.cameras, name)), name
    assert torch.equal(a.origins, b.origins) and torch.equal(a.point_offsets, b.point_offsets)


@pytest.mark.parametrize("chosen", [[0], [2], [1, 2], [2, 0], [0, 1, 2]])
def test_some_samples_are_a_batch(chosen: list[int]) -> None:
    made = samples()
    assert any((sample.grouping.of_point < 0).any() for sample in made), "some points have no cell"
    assert_equal(collate(made).take(chosen), collate([made[i] for i in chosen]))


def test_older_names_read_the_same_values() -> None:
    made = samples(2)
    batch = collate(made)
    assert batch.coords is batch.cells.coords and batch.point_to_voxel is batch.cells.of_point
    assert batch.feats.equal(torch.from_numpy(np.concatenate([s.feats for s in made])))
    assert batch.pixels.equal(torch.from_numpy(np.concatenate([s.pixels for s in made], 1)))
    assert batch.visible.equal(torch.from_numpy(np.concatenate([s.visible for s in made], 1)))
    assert batch.keyframe.all() and batch.point_labels.equal(batch.points["label"])


def test_what_is_derived_from_cells_stays_on_its_device() -> None:
    batch = collate(samples(1))
    batch.cells.tables["maps"] = "made here"
    assert batch.to("cpu").cells.tables == {}
    assert replace(batch.cells, coords=batch.cells.coords + 1).tables == {}
