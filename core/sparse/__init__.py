"""Sparse convolution engine: sparse tensors, kernel maps, convolutions, point-voxel exchange, pooling."""

from core.sparse.backends import BACKENDS, convolve, get_backend, set_backend
from core.sparse.checks import InvalidInput
from core.sparse.conv import Conv3d
from core.sparse.fold import fold_batch_norm
from core.sparse.library import library_status, set_isa
from core.sparse.maps import KernelMap, kernel_map, kernel_offsets
from core.sparse.modules import SparseBatchNorm, SparseLeakyReLU, SparseReLU, cat
from core.sparse.points import devoxelize, gather_sum, local_pool, voxel_mean
from core.sparse.stage import SparseStage
from core.sparse.sync_bn import SyncBatchNorm, convert_sync_batchnorm
from core.sparse.tensor import MAX_SPAN, MapCache, SparseTensor
from core.sparse.windows import Window, WindowCache

__all__ = [
    "BACKENDS",
    "MAX_SPAN",
    "Conv3d",
    "InvalidInput",
    "KernelMap",
    "MapCache",
    "SparseBatchNorm",
    "SparseLeakyReLU",
    "SparseReLU",
    "SparseStage",
    "SparseTensor",
    "SyncBatchNorm",
    "Window",
    "WindowCache",
    "cat",
    "convert_sync_batchnorm",
    "convolve",
    "devoxelize",
    "fold_batch_norm",
    "gather_sum",
    "get_backend",
    "kernel_map",
    "kernel_offsets",
    "library_status",
    "local_pool",
    "set_backend",
    "set_isa",
    "voxel_mean",
]
