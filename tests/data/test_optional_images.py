"""Whose missing images are an error, and whose are not."""

from __future__ import annotations

import numpy as np
import pytest
from data_fakes import FakeDataset

from core.contracts import Scan
from core.data import DataConfig, PairedSamples, SampleKey, ScanSamples
from core.errors import UserError

IMAGES = DataConfig(voxel_size=0.5, images=True)


class HalfLabelled(FakeDataset):
    """Four scans, of which the first two are labelled; only the first has images."""

    budget = np.array([True, True, False, False])

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        self.num_cameras = int(index == 0)
        return super().load(index, cameras=cameras)


def test_unlabelled_scans_do_without_images() -> None:
    samples = ScanSamples(HalfLabelled(4), IMAGES, training=True)
    batch = samples.collate([samples[SampleKey(0, index)] for index in (0, 3)])
    assert batch.cameras.rows.tolist() == [0, -1] and len(batch.images) == 1
    end = int(batch.voxel_offsets[1])
    assert batch.visible[:, :end].any() and not batch.visible[:, end:].any()


def test_labelled_scans_do_not() -> None:
    """A data set that lacks images is incomplete, and nobody trains without them unawares."""
    for training in (True, False):
        samples = ScanSamples(HalfLabelled(4), IMAGES, training=training)
        with pytest.raises(UserError, match=r"scan1 has no camera.*data\.images"):
            samples[SampleKey(0, 1)]
    whole = FakeDataset(4)
    with pytest.raises(UserError, match="has no camera"):
        ScanSamples(whole, IMAGES, training=True)[SampleKey(0, 3)]


def test_neither_view_of_an_unlabelled_scan_needs_images() -> None:
    samples = PairedSamples(HalfLabelled(4), DataConfig(voxel_size=0.5), IMAGES, training=True)
    pair = samples.collate([samples[SampleKey(0, index)] for index in (2, 0)])
    assert pair.student.cameras is None
    assert pair.teacher.cameras.rows.tolist() == [-1, 0]
