"""Windows, pairs and the softmax over them under the name that published code imports them by."""

from sptr.operators import scatter_softmax_csr
from sptr.pairs import get_indices_params, grid_sample, to_3d_numpy

__all__ = ["get_indices_params", "grid_sample", "scatter_softmax_csr", "to_3d_numpy"]
