"""Convolutions against dense conv3d in float64, and the two backends against each other."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from sparse_scene import densify, scene

from core.errors import UserError
from core.sparse import (
    Conv3d,
    SparseTensor,
    convolve,
    kernel_map,
    kernel_offsets,
    set_backend,
    set_isa,
)
from core.sparse.library import library

LOW, SIZE, BATCH = -4, 12, 2
PAD = 8  # free cells around the dense twin


def dense_weight(conv: Conv3d, dtype) -> torch.Tensor:
    """[Cout, Cin, kx, ky, kz] from the [K, Cin, Cout] kernel and the documented offset order."""
    kernel = conv.kernel.view(-1, conv.in_channels, conv.out_channels).to(dtype)
    shape = conv.kernel_size
    offsets = kernel_offsets(shape) + torch.tensor([k // 2 if k % 2 else 0 for k in shape])
    weight = kernel.new_zeros(*shape, conv.in_channels, conv.out_channels)
    weight = weight.index_put(tuple(offsets.T), kernel)
    return weight.permute(4, 3, 0, 1, 2)


def dense_conv(
    x: torch.Tensor, weight: torch.Tensor, coords, kernel, stride, dilation
) -> torch.Tensor:
    """Correlate at every cell of the padded grid, then read the output coordinates."""
    left = [(k // 2) * d if k % 2 else 0 for k, d in zip(kernel, dilation)]
    right = [(k - 1) * d - a for k, d, a in zip(kernel, dilation, left)]
    pads = list(itertools.chain(*[(PAD + left[i], PAD + right[i]) for i in (2, 1, 0)]))
    full = F.conv3d(F.pad(x, pads), weight, dilation=dilation)
    b, i, j, k = coords.long().unbind(1)
    o = PAD - LOW
    return full[b, :, i + o, j + o, k + o]


CASES = [
    (3, 1, 1), (2, 2, 1), (3, 1, 2), ((1, 3, 3), 1, 1), ((3, 1, 3), 1, 1), (2, 1, 1), (4, 1, 1), (3, 2, 1), (3, 3, 1),
    (5, 1, 1), ((1, 1, 3), (1, 1, 2), 1),
]  # fmt: skip


@pytest.mark.parametrize("kernel, stride, dilation", CASES)
def test_agrees_with_dense_conv3d_in_float64(kernel, stride, dilation):
    torch.manual_seed(0)
    x = scene()
    x.feats.requires_grad_()
    conv = Conv3d(5, 7, kernel, stride, dilation).double()
    y = conv(x)
    cells = torch.div(
        x.coords, torch.tensor([1, *conv.stride]), rounding_mode="floor"
    ) * torch.tensor([1, *conv.stride])
    expected_coords = torch.unique(cells, dim=0)
    if conv.stride != (1, 1, 1):
        assert torch.equal(y.coords.long(), expected_coords.long())
    weight = dense_weight(conv, torch.float64)
    expected = dense_conv(
        densify(x.feats, x.coords, LOW, SIZE, BATCH),
        weight,
        y.coords,
        conv.kernel_size,
        stride,
        conv.dilation,
    )
    torch.testing.assert_close(y.feats, expected, rtol=1e-10, atol=1e-10)
    probe = torch.randn_like(expected)
    ours = torch.autograd.grad((y.feats * probe).sum(), [x.feats, conv.kernel])
    theirs = torch.autograd.grad((expected * probe).sum(), [x.feats, conv.kernel])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_transposed_agrees_with_dense_conv_transpose3d():
    torch.manual_seed(0)
    x = scene()
    down, up = Conv3d(5, 6, 2, 2).double(), Conv3d(6, 4, 2, 2, transposed=True).double()
    coarse = down(x)
    z = coarse.replace(coarse.feats.detach().requires_grad_())
    y = up(z)
    assert torch.equal(y.coords, x.coords) and y.stride == (1, 1, 1)
    half = z.coords.clone()
    half[:, 1:] = torch.div(half[:, 1:], 2, rounding_mode="floor")
    dense = densify(z.feats, half, LOW // 2, SIZE // 2, BATCH)
    weight = dense_weight(up, torch.float64).permute(1, 0, 2, 3, 4)
    full = F.conv_transpose3d(dense, weight, stride=2)
    b, i, j, k = x.coords.long().unbind(1)
    expected = full[b, :, i - LOW, j - LOW, k - LOW]
    torch.testing.assert_close(y.feats, expected, rtol=1e-10, atol=1e-10)
    probe = torch.randn_like(expected)
    ours = torch.autograd.grad((y.feats * probe).sum(), [z.feats, up.kernel])
    theirs = torch.autograd.grad((expected * probe).sum(), [z.feats, up.kernel])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_transposed_without_partner_is_refused():
    with pytest.raises(UserError, match="stride"):
        Conv3d(5, 6, 2, 2, transposed=True)(
            SparseTensor(torch.zeros(1, 5), torch.zeros(1, 4).int(), (2, 2, 2), scene().cache)
        )


@pytest.mark.parametrize("kernel", [1, 3])
def test_other_channels_than_the_kernels_are_refused(kernel):
    conv = Conv3d(4, 8, kernel)
    x = scene(20, 3, dtype=torch.float32)
    with pytest.raises(UserError, match=r"\[20, 3\], but the kernel takes 4 channels"):
        conv(x)
    kmap = kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    with pytest.raises(UserError, match="4 channels"):
        convolve(x.feats, torch.zeros(27, 4, 8), None, kmap)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512bf16"])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
@pytest.mark.parametrize("cin, cout", [(4, 32), (33, 19), (64, 96), (7, 1), (20, 130)])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (2, 2)])
def test_native_equals_float64_reference(isa, dtype, tolerance, cin, cout, kernel, stride):
    if not set_isa(isa):
        pytest.skip(f"this machine has no {isa}")
    try:
        torch.manual_seed(0)
        x = scene(1500, cin, dtype=dtype)
        conv = Conv3d(cin, cout, kernel, stride, bias=True).to(dtype)
        torch.nn.init.normal_(conv.bias)
        x.feats.requires_grad_()
        y = conv(x)
        probe = torch.randn(y.feats.shape).to(dtype)
        parameters = [x.feats, conv.kernel, conv.bias]
        grads = torch.autograd.grad((y.feats * probe).sum(), parameters)
        copies = [p.detach().double().requires_grad_() for p in parameters]
        kmap = conv.map_of(x)[0]
        reference = convolve(copies[0], copies[1], copies[2], kmap, "torch")
        expected = torch.autograd.grad((reference * probe.double()).sum(), copies)
        for ours, theirs in zip([y.feats, *grads], [reference, *expected]):
            error = (ours.double() - theirs).abs().max() / theirs.abs().max()
            assert error < tolerance, error
    finally:
        set_isa("best")


def test_gradcheck(backend):
    torch.manual_seed(0)
    x = scene(30, 3, size=4)
    kmap = kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    kernel = torch.randn(27, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, w: convolve(f, w, None, kmap), (x.feats.requires_grad_(), kernel)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(dtype):
    torch.manual_seed(0)
    x, conv = scene(1700, 24, dtype=dtype), Conv3d(24, 40).to(dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            fresh = SparseTensor.from_batch(x.feats.clone().requires_grad_(), x.coords)
            y = conv(fresh).feats
            results.append(
                [y, *torch.autograd.grad((y * y.detach()).sum(), [fresh.feats, conv.kernel])]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_offset_order_is_torchsparse_order():
    odd = kernel_offsets((3, 3, 3)).tolist()
    assert (
        odd[0] == [-1, -1, -1]
        and odd[1] == [0, -1, -1]
        and odd[3] == [-1, 0, -1]
        and odd[9] == [-1, -1, 0]
    )
    even = kernel_offsets((2, 2, 2)).tolist()
    assert even == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 1],
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, 0],
        [1, 1, 1],
    ]


def test_initialisation_bound_and_pointwise_kernel():
    torch.manual_seed(0)
    conv = Conv3d(16, 32, 3)
    assert conv.kernel.shape == (27, 16, 32)
    assert 0.95 * (16 * 27) ** -0.5 < conv.kernel.abs().max() <= (16 * 27) ** -0.5
    assert Conv3d(16, 64, 2, 2, transposed=True).kernel.abs().max() <= (64 * 8) ** -0.5
    point = Conv3d(16, 8, 1)
    assert point.kernel.shape == (16, 8)
    x = scene(20, 16, dtype=torch.float32)
    torch.testing.assert_close(point(x).feats, x.feats @ point.kernel)


@pytest.mark.parametrize("voxels", [0, 1])
def test_empty_and_single_voxel(backend, voxels):
    x = scene(voxels, 5, dtype=torch.float32)
    down, up = Conv3d(5, 6, 2, 2), Conv3d(6, 3, 2, 2, transposed=True)
    y = up(down(Conv3d(5, 5)(x)))
    assert y.feats.shape == (voxels, 3)
    y.feats.sum().backward()
    assert torch.isfinite(up.kernel.grad).all()


def test_map_of_any_order_equals_brute_force(backend):
    x = scene(150, 2)
    kmap = kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    rows = {tuple(c): i for i, c in enumerate(x.coords.tolist())}
    for k, (dx, dy, dz) in enumerate(kernel_offsets((3, 3, 3)).tolist()):
        expected = [rows.get((b, i + dx, j + dy, k_ + dz), -1) for b, i, j, k_ in x.coords.tolist()]
        assert kmap.table[k].tolist() == expected
    assert torch.equal(kmap.transposed.table, kmap.table.flip(0))


def test_maps_are_built_once_per_input():
    x = scene(100, 4, dtype=torch.float32)
    first, second = Conv3d(4, 8), Conv3d(8, 8)
    second(first(x))
    assert len(x.cache.maps) == 1


def test_spread_too_wide_is_refused():
    coords = torch.tensor([[0, 0, 0, 0], [0, 1 << 18, 0, 0]]).int()
    with pytest.raises(UserError, match="voxels per axis"):
        Conv3d(2, 2)(SparseTensor.from_batch(torch.zeros(2, 2), coords))


def test_autocast_runs_in_its_dtype():
    x = scene(60, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv3d(4, 8)(x).feats.dtype == torch.bfloat16


def test_library_is_built():
    assert library() is not None, (
        "run `make setup`: the tests are meant to cover the compiled kernels"
    )


def test_unknown_backend():
    with pytest.raises(UserError, match="unknown sparse backend"):
        set_backend("cudnn")


def test_operators_have_fake_kernels():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, w = torch.empty(10, 4), torch.empty(27, 4, 6)
        ptr, rows = torch.empty(28, dtype=torch.int64), torch.empty(5, dtype=torch.int32)
        assert torch.ops.lidistill.sparse_conv(
            x, w, None, ptr, rows, rows, 9, False, False
        ).shape == (9, 6)
        assert torch.ops.lidistill.sparse_conv_weight_grad(
            x, torch.empty(9, 6), ptr, rows, rows
        ).shape == (27, 4, 6)
