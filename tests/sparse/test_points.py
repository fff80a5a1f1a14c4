"""Points to voxels and back, and pooling, against loops in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sparse_scene import scene

from core.sparse import (
    MapCache,
    SparseTensor,
    devoxelize,
    gather_sum,
    library_status,
    local_pool,
    set_isa,
    voxel_mean,
)
from core.sparse.points import GatherTable

STRIDES = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (16, 16, 16), (2, 2, 1), (1, 4, 2)]
LOW, SIZE, BATCH = -4, 12, 2
DTYPES = [
    (torch.float64, 1e-6),
    (torch.float32, 2e-6),
]  # float64 takes the PyTorch path; table weights are float32


def level(stride, channels=5, dtype=torch.float64, voxels=200) -> SparseTensor:
    """A scene's voxels at ``stride`` with features of their own."""
    x = scene(voxels, channels, SIZE, BATCH, LOW)
    coords = x.cache.level(stride).coords
    g = torch.Generator().manual_seed(1)
    feats = torch.randn(len(coords), channels, generator=g, dtype=torch.float64).to(dtype)
    return SparseTensor(feats, coords, stride, x.cache)


def cloud(kind: str, count: int = 150) -> torch.Tensor:
    """Points [P, 4], float32 or int32, in and around the scene's cube, the first ones far below every voxel."""
    g = torch.Generator().manual_seed(2)
    batch = torch.randint(0, BATCH, (count, 1), generator=g)
    xyz = torch.rand(count, 3, generator=g) * (SIZE + 4) + LOW - 2
    xyz[:3] -= torch.tensor([40.0, 300.0, 5000.0])[:, None]
    if kind == "integer":
        return torch.cat([batch, xyz.floor().long()], 1).int()
    return torch.cat([batch.float(), xyz], 1)


def rows_of(x: SparseTensor) -> dict[tuple[int, ...], int]:
    return {tuple(c): row for row, c in enumerate(x.coords.tolist())}


def cell_of(point: list[float], stride) -> tuple[int, ...]:
    return (int(point[0]), *(math.floor(p / s) * s for p, s in zip(point[1:], stride)))


def trilinear(x: SparseTensor, points: torch.Tensor) -> torch.Tensor:
    """The definition, point by point and corner by corner, as a dense matrix f64 [P, V]."""
    rows, matrix = rows_of(x), torch.zeros(len(points), x.num_voxels, dtype=torch.float64)
    for p, point in enumerate(points.tolist()):
        batch, *cell = cell_of(point, x.stride)
        total = 0.0
        for corner in itertools.product((0, 1), repeat=3):
            weight = 1.0
            for axis in range(3):
                fraction = (point[1 + axis] - cell[axis]) / x.stride[axis]
                weight *= fraction if corner[axis] else 1 - fraction
            row = rows.get((batch, *(c + d * s for c, d, s in zip(cell, corner, x.stride))))
            if row is not None:
                matrix[p, row] += weight
                total += weight
        matrix[p] /= total + 1e-8
    return matrix


def averaging(x: SparseTensor, points: torch.Tensor) -> torch.Tensor:
    """Dense matrix f64 [V, P] of the mean over the points of each voxel."""
    rows, matrix = rows_of(x), torch.zeros(x.num_voxels, len(points), dtype=torch.float64)
    for p, point in enumerate(points.tolist()):
        row = rows.get(cell_of(point, x.stride))
        if row is not None:
            matrix[row, p] = 1
    return matrix / matrix.sum(1, keepdim=True).clamp_min(1)


def assert_linear(operator, matrix: torch.Tensor, feats: torch.Tensor, tolerance: float) -> None:
    """``operator(feats)`` is ``matrix @ feats`` and its gradient ``matrix.T @ grad``."""
    feats = feats.detach().requires_grad_()
    y = operator(feats)
    assert y.dtype == feats.dtype
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (grad,) = torch.autograd.grad(y, feats, probe.to(feats.dtype))
    torch.testing.assert_close(y.double(), matrix @ feats.double(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(grad.double(), matrix.T @ probe, rtol=tolerance, atol=2 * tolerance)


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch):
    """The compiled kernels, and the fall-back where nothing was compiled."""
    if request.param == "torch":
        for module in ("maps", "points", "tensor"):
            monkeypatch.setattr(f"core.sparse.{module}.library", lambda: None)
    else:
        assert library_status()[0], (
            "run `make setup`: the tests are meant to cover the compiled kernels"
        )
    return request.param


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@pytest.mark.parametrize("kind", ["integer", "float"])
@pytest.mark.parametrize("stride", STRIDES)
def test_voxel_mean_averages_the_points_of_each_cell(path, stride, kind, dtype, tolerance):
    x, points = level(stride, dtype=dtype), cloud(kind)
    feats = torch.randn(
        len(points), 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    ).to(dtype)
    expected = averaging(x, points)
    assert (expected.sum(1) == 0).any() or stride == (16, 16, 16)  # some voxels have no point
    assert (expected.sum(0) == 0).any()  # some points have no voxel
    assert_linear(lambda f: voxel_mean(x, f, points).feats, expected, feats, tolerance)
    y = voxel_mean(x, feats, points)
    assert y.coords is x.coords and y.stride == stride and y.cache is x.cache


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@pytest.mark.parametrize("kind", ["integer", "float"])
@pytest.mark.parametrize("stride", STRIDES)
def test_devoxelize_is_trilinear_over_the_present_corners(path, stride, kind, dtype, tolerance):
    x, points = level(stride, dtype=dtype), cloud(kind)
    matrix = trilinear(x, points)
    assert (matrix.sum(1) == 0).any()  # some points have no voxel near
    assert_linear(lambda f: devoxelize(x.replace(f), points), matrix, x.feats, tolerance)


@pytest.mark.parametrize("stride", [(2, 2, 2), (4, 4, 2), (16, 16, 16)])
def test_devoxelize_at_points_that_all_lie_in_voxels(path, stride):
    """Then the corners are found once per voxel; the outcome must be that of the search per point."""
    x, fine = level(stride), scene(200, 5, SIZE, BATCH, LOW)
    inside = fine.coords.float() + torch.rand(
        200, 4, generator=torch.Generator().manual_seed(5)
    ) * torch.tensor([0, 0.999, 0.999, 0.999])
    matrix = trilinear(x, inside)
    assert (matrix.sum(1) > 0.99).all()
    assert_linear(lambda f: devoxelize(x.replace(f), inside), matrix, x.feats, 1e-6)


def test_devoxelize_by_hand():
    """Two voxels of stride 2 side by side: a point at 1/4 of the way; negative cells; corners that are missing."""
    coords = torch.tensor([[0, -2, -2, -2], [0, 0, -2, -2]]).int()
    x = SparseTensor(torch.tensor([[0.0], [8.0]]), coords, (2, 2, 2), MapCache(coords))
    points = torch.tensor(
        [
            [0, -1.5, -2.0, -2.0],  # a quarter of the way from the first to the second
            [0, -1.0, -1.0, -1.0],  # both weigh 1/8, six corners are absent
            [0, -3.0, -2.0, -2.0],  # in an absent cell whose upper corner is the first voxel
            [0, 0.5, -2.0, -2.0],  # the second voxel's, whose upper corner is absent
            [0, 40.0, 0.0, 0.0],  # near nothing
            [1, -1.5, -2.0, -2.0],  # another scan
        ]
    )
    torch.testing.assert_close(
        devoxelize(x, points)[:, 0], torch.tensor([2.0, 4.0, 0.0, 8.0, 0.0, 0.0])
    )


def test_identity_at_stride_one(path):
    x = scene(100, 4, dtype=torch.float32)
    assert devoxelize(x, x.coords) is x.feats
    assert voxel_mean(x, x.feats, x.coords).feats is x.feats
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    points = x.coords[shuffled]
    torch.testing.assert_close(devoxelize(x, points), x.feats[shuffled], rtol=1e-6, atol=0)
    torch.testing.assert_close(devoxelize(x, points.float()), x.feats[shuffled], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        voxel_mean(x, x.feats[shuffled], points).feats, x.feats, rtol=0, atol=0
    )


def test_tables_of_the_own_voxels_are_kept_and_others_are_not():
    fine, coarse = level((1, 1, 1)), level((2, 2, 2))
    coarse = SparseTensor(coarse.feats, coarse.coords, coarse.stride, fine.cache)
    first, second = cloud("float"), cloud("float") + torch.tensor([0, 1.0, 0, 0])
    own = devoxelize(coarse)
    torch.testing.assert_close(
        own, trilinear(coarse, fine.coords) @ coarse.feats, rtol=1e-6, atol=1e-6
    )
    assert torch.equal(devoxelize(coarse), own)
    for x, points in itertools.product((fine, coarse), (first, second)):
        expected = trilinear(x, points) @ x.feats
        torch.testing.assert_close(devoxelize(x, points), expected, rtol=1e-6, atol=1e-6)
    tables = [key for key in fine.cache.maps if key[0] == "trilinear"]
    assert tables == [("trilinear", (2, 2, 2))]


def random_table(rows=9, columns=7, entries=40) -> tuple[GatherTable, torch.Tensor]:
    """A table with empty rows and repeated entries, and the same as a dense matrix f64 [rows, columns]."""
    g = torch.Generator().manual_seed(6)
    row = torch.randint(0, rows - 2, (entries,), generator=g) + 1  # first and last row stay empty
    index, weight = (
        torch.randint(0, columns, (entries,), generator=g),
        torch.randn(entries, generator=g),
    )
    dense = torch.zeros(rows, columns, dtype=torch.float64).index_put(
        (row, index), weight.double(), accumulate=True
    )
    return GatherTable.from_entries(row, index, weight, rows, columns), dense


def test_lookup_reads_rows_in_any_order(path):
    rows = torch.tensor([2, 0, 2, 3, 2])
    x = torch.arange(8.0).view(4, 2).requires_grad_()
    y = gather_sum(x, GatherTable.lookup(rows, len(x)))
    assert torch.equal(y, x[rows])
    y.backward(torch.ones_like(y))
    assert x.grad.tolist() == [[1, 1], [0, 0], [3, 3], [1, 1]]
    empty = GatherTable.lookup(rows[:0], len(x))
    assert gather_sum(x, empty).shape == (0, 2)


@pytest.mark.parametrize(
    "dtype, tolerance", [*DTYPES, (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
@pytest.mark.parametrize("channels", [1, 19, 64])
def test_gather_sum_is_a_matrix_product(path, channels, dtype, tolerance):
    table, dense = random_table()
    feats = torch.randn(
        7, channels, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    ).to(dtype)
    assert_linear(lambda f: gather_sum(f, table), dense, feats, tolerance)


def test_gather_sum_takes_strided_features_and_gradients(path):
    table, dense = random_table()
    wide = torch.randn(7, 10, generator=torch.Generator().manual_seed(8)).requires_grad_()
    y = gather_sum(wide[:, ::2], table)
    torch.testing.assert_close(y.double(), dense @ wide.double()[:, ::2], rtol=1e-5, atol=1e-6)
    y.sum().backward()  # an expanded gradient
    expected = torch.zeros(7, 10, dtype=torch.float64)
    expected[:, ::2] = dense.sum(0)[:, None]
    torch.testing.assert_close(wide.grad.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512bf16"])
def test_gather_sum_of_bf16_is_the_fp32_sum_rounded(isa):
    """Also where nothing is finite."""
    if not set_isa(isa):
        pytest.skip(f"this machine has no {isa}")
    try:
        table, _ = random_table()
        feats = torch.randn(7, 19, generator=torch.Generator().manual_seed(7)).bfloat16()
        feats[1, 2], feats[2, 3], feats[3, 4] = torch.inf, -torch.inf, torch.nan
        expected = table.apply(feats.float()).bfloat16()
        torch.testing.assert_close(table.apply(feats), expected, rtol=0, atol=0, equal_nan=True)
    finally:
        set_isa("best")


@pytest.mark.parametrize("threads", [1, 3])
def test_gather_sum_same_bits_for_any_number_of_threads(threads):
    g = torch.Generator().manual_seed(9)
    rows, index = (
        torch.randint(0, 3000, (20000,), generator=g),
        torch.randint(0, 500, (20000,), generator=g),
    )
    table = GatherTable.from_entries(rows, index, torch.rand(20000, generator=g), 3000, 500)
    x = torch.randn(500, 8, generator=g)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = table.apply(x), table.transposed.apply(torch.ones(3000, 8))
        torch.set_num_threads(threads)
        assert torch.equal(table.apply(x), expected[0])
        assert torch.equal(table.transposed.apply(torch.ones(3000, 8)), expected[1])
    finally:
        torch.set_num_threads(before)


def test_gradcheck():
    x, points = level((2, 2, 2), channels=2, voxels=30), cloud("float", 12)
    feats = x.feats.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: devoxelize(x.replace(f), points), feats)
    of_points = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: voxel_mean(x, f, points).feats, of_points)
    for reduce in ("mean", "max"):
        assert torch.autograd.gradcheck(
            lambda f, how=reduce: local_pool(x.replace(f), 2, 2, how).feats, feats
        )


def pooled_rows(x: SparseTensor, kernel, stride) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Output cells in order, and the input rows under the kernel at each."""
    coarse = tuple(t * s for t, s in zip(x.stride, stride))
    cells = [tuple(c) for c in x.coords.tolist()]
    if coarse != x.stride:
        cells = sorted({cell_of(c, coarse) for c in cells})
    reach = [range(-(k // 2), k // 2 + 1) if k % 2 else range(k) for k in kernel]
    rows = rows_of(x)
    under = []
    for batch, *cell in cells:
        near = [
            tuple(c + d * t for c, d, t in zip(cell, offset, x.stride))
            for offset in itertools.product(*reach)
        ]
        under.append([rows[(batch, *c)] for c in near if (batch, *c) in rows])
    return cells, under


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize(
    "kernel, stride",
    [
        ((2, 2, 2), (2, 2, 2)),
        ((3, 3, 3), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2)),
        ((1, 2, 3), (1, 2, 2)),
        ((2, 2, 2), (3, 3, 3)),  # cells between the kernels: some outputs pool nothing
    ],
)
@pytest.mark.parametrize("tensor_stride", [(1, 1, 1), (2, 2, 2)])
def test_local_pool(path, tensor_stride, kernel, stride, reduce, dtype):
    x = level(tensor_stride, dtype=dtype)
    x.feats.requires_grad_()
    cells, under = pooled_rows(x, kernel, stride)
    y = local_pool(x, kernel, stride, reduce)
    assert [tuple(c) for c in y.coords.tolist()] == cells
    assert y.stride == tuple(t * s for t, s in zip(tensor_stride, stride))
    feats = x.feats.detach().double().requires_grad_()
    zero = feats.new_zeros(feats.shape[1])
    pool = {"mean": lambda f: f.mean(0), "max": lambda f: f.amax(0)}[reduce]
    expected = torch.stack([pool(feats[rows]) if rows else zero for rows in under])
    torch.testing.assert_close(y.feats.double(), expected, rtol=1e-6, atol=1e-6)
    probe = torch.randn(
        expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    (ours,) = torch.autograd.grad(y.feats, x.feats, probe.to(dtype))
    (theirs,) = torch.autograd.grad(expected, feats, probe)
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_pool_of_an_empty_batch(reduce):
    x = scene(0, 5, dtype=torch.float32)
    assert local_pool(x, 2, 2, reduce).feats.shape == (0, 5)


def test_no_points_and_no_voxels():
    x, none = scene(20, 5, dtype=torch.float32), torch.zeros(0, 4)
    assert devoxelize(x, none).shape == (0, 5)
    assert torch.equal(voxel_mean(x, torch.zeros(0, 3), none).feats, torch.zeros(20, 3))
    empty = scene(0, 5, dtype=torch.float32)
    assert torch.equal(devoxelize(empty, cloud("float", 4)), torch.zeros(4, 5))
