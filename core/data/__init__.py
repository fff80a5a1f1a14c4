"""Scan to sample to batch: augmentation, voxels, projection to pixels, samplers and loaders."""

from core.data.collate import collate
from core.data.config import AugmentConfig, DataConfig
from core.data.loader import BatchLoader, PairedSamples, ScanSamples, build_loader, explain_worker_death
from core.data.mapping import gather_rows, points_to_voxels, teacher_voxels, voxels_to_points
from core.data.sample import make_sample
from core.data.sampler import EpochSampler, SampleKey, sample_rng
from core.data.voxelize import voxelize

__all__ = [
    "AugmentConfig",
    "BatchLoader",
    "DataConfig",
    "EpochSampler",
    "PairedSamples",
    "SampleKey",
    "ScanSamples",
    "build_loader",
    "collate",
    "explain_worker_death",
    "gather_rows",
    "make_sample",
    "points_to_voxels",
    "sample_rng",
    "teacher_voxels",
    "voxelize",
    "voxels_to_points",
]
