"""The registered operators under the checks of torch.library."""

from __future__ import annotations

import pytest
import torch
from sparse_scene import scene

from core.sparse import kernel_map, library_status
from core.sparse.backends import native

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def case(request):
    """Features [60, 5], gradient [60, 7], filters [27, 5, 7] of one type, and their kernel map."""
    assert native  # importing it registers the operators
    if not library_status()[0]:
        pytest.skip(f"the kernels are not compiled: {library_status()[1]}")
    x = scene(voxels=60, channels=5, dtype=request.param)
    generator = torch.Generator().manual_seed(0)
    grad, kernel = (
        torch.randn(shape, generator=generator).to(request.param) for shape in ((60, 7), (27, 5, 7))
    )
    return x.feats, grad, kernel, kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))


def test_sparse_conv(case):
    """As the forward pass calls it, with a bias, and as the backward pass does, mirrored and transposed."""
    x, grad, kernel, kmap = case
    pairs = (kmap.tiles.ptr, kmap.tiles.rows_in, kmap.tiles.rows_out, kmap.n_out)
    for inputs in (
        (x, kernel, kernel[0, 0], *pairs, False, False),
        (grad, kernel, None, *pairs, True, True),
    ):
        torch.library.opcheck(torch.ops.lidistill.sparse_conv.default, inputs, test_utils=CHECKS)


def test_sparse_conv_weight_grad(case):
    x, grad, _, kmap = case
    pairs = kmap.offsets
    inputs = (x, grad, pairs.ptr, pairs.rows_in, pairs.rows_out)
    torch.library.opcheck(
        torch.ops.lidistill.sparse_conv_weight_grad.default, inputs, test_utils=CHECKS
    )
