"""Scan to sample to batch: augmentation, voxels, projection to pixels, samplers and loaders."""

from core.data.collate import collate
from core.data.config import AugmentConfig, DataConfig, VoteAugmentConfig
from core.data.loader import BatchLoader, build_loader
from core.data.mapping import (
    gather_rows,
    keyframe_voxels,
    linked_points,
    linked_voxels,
    majority_labels,
    points_to_voxels,
    teacher_voxels,
    voxels_to_points,
)
from core.data.partitions import voxelize
from core.data.sample import COLUMN_WIDTHS, Recipe, make_sample
from core.data.sampler import EpochSampler, SampleKey, sample_rng
from core.data.samples import ChosenScans, PairedSamples, Samples, ScanSamples
from core.data.votes import VotePlan, VoteSamples

__all__ = [
    "COLUMN_WIDTHS",
    "AugmentConfig",
    "BatchLoader",
    "ChosenScans",
    "DataConfig",
    "EpochSampler",
    "PairedSamples",
    "Recipe",
    "SampleKey",
    "Samples",
    "ScanSamples",
    "VoteAugmentConfig",
    "VotePlan",
    "VoteSamples",
    "build_loader",
    "collate",
    "gather_rows",
    "keyframe_voxels",
    "linked_points",
    "linked_voxels",
    "majority_labels",
    "make_sample",
    "points_to_voxels",
    "sample_rng",
    "teacher_voxels",
    "voxelize",
    "voxels_to_points",
]
