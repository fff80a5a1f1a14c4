"""Window attention with contextual relative position for point clouds.

:func:`fused_window_attention` is what to train with; the operators on explicit pairs keep the known ``sptr`` interface.
"""

from sptr.cuda import cuda_library_status
from sptr.fused import fused_window_attention
from sptr.library import library_status, set_isa
from sptr.modules import SparseTrTensor, VarLengthMultiheadSA, sparse_self_attention
from sptr.operators import (
    attention_step1,
    attention_step2,
    attention_step2_with_rel_pos_value,
    dot_prod_with_idx,
    dot_prod_with_idx_all,
    operator_window_attention,
    scatter_softmax_csr,
)
from sptr.pairs import get_indices_params, grid_sample, pair_layout, to_3d_numpy
from sptr.position import PositionEmbeddingCoordsSine
from sptr.windows import (
    WindowIndex,
    exponential_bins,
    partition,
    relative_index,
    spherical,
    window_index,
)

__version__ = "1.0.0"
__all__ = [
    "PositionEmbeddingCoordsSine",
    "SparseTrTensor",
    "VarLengthMultiheadSA",
    "WindowIndex",
    "attention_step1",
    "attention_step2",
    "attention_step2_with_rel_pos_value",
    "cuda_library_status",
    "dot_prod_with_idx",
    "dot_prod_with_idx_all",
    "exponential_bins",
    "fused_window_attention",
    "get_indices_params",
    "grid_sample",
    "library_status",
    "operator_window_attention",
    "pair_layout",
    "partition",
    "relative_index",
    "scatter_softmax_csr",
    "set_isa",
    "sparse_self_attention",
    "spherical",
    "to_3d_numpy",
    "window_index",
]
