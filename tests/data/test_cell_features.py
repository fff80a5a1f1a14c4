"""Features of cells: those of the point that represents one, or the mean over its points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from data_fakes import make_scan

from core.contracts import Batch
from core.data import DataConfig, collate, make_sample

VIEW = {"voxel_size": 1.0, "augment": None, "features": ["xyz", "intensity", "lag"]}


def merged_batch(**more: object) -> Batch:
    """Two scans with points of a past one, some of them outside ``point_range``, where they are in no cell."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(2):
        points = rng.uniform(-4, 4, (300, 3))
        lag = np.where(np.arange(300) < 200, 0.0, 0.1)
        scan = make_scan(points, labels=np.ones(300), time_lag=lag, token=f"s{index}")
        config = DataConfig.model_validate({**VIEW, **more})
        samples.append(make_sample(scan, index, config))
    return collate(samples)


def test_the_mean_is_over_the_points_of_the_cell_alone() -> None:
    batch = merged_batch(cell_features="mean", point_range=[-3, -3, -3, 3, 3, 3])
    rows = batch.point_feats.double().numpy()
    of_point = batch.cells.of_point.numpy()
    assert (of_point < 0).any()
    expected = np.stack([rows[of_point == cell].mean(0) for cell in range(len(batch.cells))])
    np.testing.assert_allclose(batch.feats.numpy(), expected, atol=1e-4)
    mixed = (batch.feats[:, 4] > 0.01) & (batch.feats[:, 4] < 0.09)
    assert mixed.any(), "some cells were seen now and before"


def test_a_part_of_a_batch_has_the_same_features() -> None:
    batch = merged_batch(cell_features="mean")
    first = batch.cells.offsets[1]
    torch.testing.assert_close(batch.take([1]).feats, batch.feats[first:])
    pointwise = replace(batch, cell_features="point")
    torch.testing.assert_close(merged_batch().feats, pointwise.feats)


def test_a_view_names_it_only_where_it_is_not_what_always_was() -> None:
    assert "cell_features" not in DataConfig().view()
    assert DataConfig(cell_features="mean").view()["cell_features"] == "mean"
