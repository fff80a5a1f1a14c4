"""Calls that do not fit: each is refused, in words that name the sizes, before compiled code sees an address."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from weakref import ref

import pytest
import torch
from sparse_scene import scene

from core.errors import UserError
from core.sparse import (
    Conv3d,
    InvalidInput,
    KernelMap,
    MapCache,
    SparseTensor,
    cat,
    convolve,
    devoxelize,
    gather_sum,
    kernel_map,
    library_status,
    local_pool,
    voxel_mean,
)
from core.sparse.backends import native
from core.sparse.library import library, pointer
from core.sparse.points import GatherTable, parents
from core.sparse.tensor import Grid, Level, argsort

TESTS = Path(__file__).resolve().parents[1]
ONE, TWO, THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)
I32, I64 = torch.int32, torch.int64


@cache
def x() -> SparseTensor:
    """60 voxels with 8 channels."""
    return scene(60, 8, dtype=torch.float32)


def kmap() -> KernelMap:
    """27 offsets, 60 rows."""
    return kernel_map(x().cache, ONE, THREE, ONE, ONE)


def down() -> SparseTensor:
    """The voxels at stride 2."""
    return Conv3d(8, 8, 2, 2)(x())


def kernel(*shape: int) -> torch.Tensor:
    return torch.zeros(*(shape or (27, 8, 16)))


def coords(*rows: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=I64)


def tensor_of(place: torch.Tensor, channels: int = 4) -> SparseTensor:
    return SparseTensor.from_batch(torch.zeros(len(place), channels), place)


def table(ptr=(0, 2, 3), index=(0, 4, 1), weight=(1.0, 1.0, 1.0), columns=5) -> GatherTable:
    """2 rows, 3 entries, 5 columns."""
    parts = torch.tensor(ptr, dtype=I64), torch.tensor(index, dtype=I32), torch.tensor(weight)
    return GatherTable(*parts, columns)


def entries(rows, index, weight=None, num_rows: int = 2, columns: int = 5) -> GatherTable:
    rows, index = torch.tensor(rows), torch.tensor(index)
    return GatherTable.from_entries(
        rows, index, torch.ones(len(rows)) if weight is None else weight, num_rows, columns
    )


def level(**changes) -> Level:
    return replace(x().cache.level(ONE), **changes)


CONVOLUTIONS = {
    "4096 channels for a layer of 8": (
        lambda: Conv3d(8, 16)(x().replace(torch.zeros(60, 4096))),
        r"\[60, 4096\], but the kernel takes 8 channels",
    ),
    "4 channels for a layer of 8": (
        lambda: Conv3d(8, 16)(x().replace(torch.zeros(60, 4))),
        r"\[60, 4\], but the kernel takes 8 channels",
    ),
    "4 channels for a product": (
        lambda: Conv3d(8, 16, 1)(x().replace(torch.zeros(60, 4))),
        r"\[60, 4\], but the kernel takes 8 channels",
    ),
    "1 row for a map of 60": (
        lambda: convolve(torch.zeros(1, 8), kernel(), None, kmap()),
        "1 rows of features for a map of 60",
    ),
    "61 rows for a map of 60": (
        lambda: convolve(torch.zeros(61, 8), kernel(), None, kmap()),
        "61 rows of features for a map of 60",
    ),
    "1 offset for a map of 27": (
        lambda: convolve(x().feats, kernel(1, 8, 16), None, kmap()),
        "a kernel of 1 offsets for a map of 27",
    ),
    "28 offsets": (
        lambda: convolve(x().feats, kernel(28, 8, 16), None, kmap()),
        "28 offsets for a map of 27",
    ),
    "a kernel of two axes": (
        lambda: convolve(x().feats, kernel(8, 16), None, kmap()),
        r"the kernel is float32 \[8, 16\]; expected floating \[any, any, any\]",
    ),
    "no output channel": (
        lambda: convolve(x().feats, kernel(27, 8, 0), None, kmap()),
        r"\[27, 8, 0\]; each size must be at least 1",
    ),
    "no input channel": (
        lambda: convolve(torch.zeros(60, 0), kernel(27, 0, 16), None, kmap()),
        r"\[27, 0, 16\]; each size must be at least 1",
    ),
    "flat features": (
        lambda: convolve(torch.zeros(60), kernel(), None, kmap()),
        r"the features are \[60\]",
    ),
    "integer features": (
        lambda: convolve(torch.zeros(60, 8, dtype=I32), kernel(), None, kmap()),
        r"x is int32 \[60, 8\]; expected floating",
    ),
    "an integer kernel": (
        lambda: convolve(x().feats, kernel().int(), None, kmap()),
        r"the kernel is int32 \[27, 8, 16\]",
    ),
    "another dtype": (
        lambda: convolve(x().feats, kernel().bfloat16(), None, kmap()),
        "features of torch.float32 and a kernel of torch.bfloat16",
    ),
    "a bias of 1": (
        lambda: convolve(x().feats, kernel(), torch.zeros(1), kmap()),
        r"the bias is float32 \[1\]; expected floating \[16\]",
    ),
    "an integer bias": (
        lambda: convolve(x().feats, kernel(), torch.zeros(16, dtype=I64), kmap()),
        r"the bias is int64 \[16\]",
    ),
    "a bias of 17": (
        lambda: convolve(x().feats, kernel(), torch.zeros(17), kmap()),
        r"\[17\]; expected floating \[16\]",
    ),
    "a residual of one row": (
        lambda: convolve(x().feats, kernel(), None, kmap(), residual=torch.zeros(1, 16)),
        r"\[1, 16\]; expected floating \[60, 16\]",
    ),
    "a residual of 15 channels": (
        lambda: convolve(x().feats, kernel(), None, kmap(), residual=torch.zeros(60, 15)),
        r"\[60, 15\]; expected floating \[60, 16\]",
    ),
    "a residual of a product": (
        lambda: Conv3d(8, 16, 1)(x(), residual=torch.zeros(16)),
        r"float32 \[16\]; expected floating \[60, 16\]",
    ),
    "another device": (
        lambda: convolve(x().feats.to("meta"), kernel(), None, kmap()),
        "features is on meta, the rest on cpu",
    ),
    "a kernel on another device": (
        lambda: convolve(x().feats, kernel().to("meta"), None, kmap()),
        "kernel is on meta, the rest on cpu",
    ),
    "features of other voxels": (
        lambda: Conv3d(8, 8)(SparseTensor(torch.zeros(3, 8), x().coords[:3], TWO, down().cache)),
        "3 rows of features for a map of",
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_that_do_not_fit(name, backend):
    call, message = CONVOLUTIONS[name]
    with pytest.raises(InvalidInput, match=message):
        call()


CALLS = {
    # sparse tensors
    "fewer features": (
        lambda: x().replace(torch.zeros(59, 8)),
        "59 rows of features for voxels of 60",
    ),
    "one row of features": (lambda: x().replace(torch.zeros(1, 8)), "1 rows of features"),
    "flat": (
        lambda: x().replace(torch.zeros(60)),
        r"float32 \[60\]; expected floating \[rows, C\]",
    ),
    "integers": (lambda: x().replace(torch.zeros(60, 8).int()), r"int32 \[60, 8\]"),
    "elsewhere": (lambda: x().replace(torch.zeros(60, 8, device="meta")), "cpu, the rest on meta"),
    "more voxels": (
        lambda: SparseTensor.from_batch(torch.zeros(2, 4), coords((0, 1, 2, 3))),
        "2 rows of features for voxels of 1",
    ),
    "another cache": (
        lambda: SparseTensor.from_batch(torch.zeros(2, 4), x().coords[:2], x().cache),
        r"\[60, 4\]\) than these \(int32 \[2, 4\]",
    ),
    "the same number of other voxels": (
        lambda: SparseTensor.from_batch(x().feats, x().coords + 1, x().cache),
        "made for other coordinates",
    ),
    "three columns": (lambda: MapCache(torch.zeros(5, 3, dtype=I32)), r"int32 \[5, 3\]; expected"),
    "floating coordinates": (lambda: MapCache(torch.zeros(5, 4)), r"float32 \[5, 4\]; expected"),
    "flags": (lambda: MapCache(torch.zeros(5, 4, dtype=torch.bool)), r"bool \[5, 4\]"),
    "join nothing": (lambda: cat([]), "no tensor"),
    "join other strides": (lambda: cat([x(), down()]), r"strides \(1, 1, 1\) and \(2, 2, 2\)"),
    "join other voxels": (
        lambda: cat([x(), scene(60, 8, seed=1, dtype=torch.float32)]),
        "on 60 and 60 voxels",
    ),
    # keys
    "a span that wraps around": (
        lambda: Grid.around(coords((0, -(2**62), 0, 0), (0, 2**62, 0, 0))),
        rf"span {2**63} voxels",
    ),
    "a span that wraps around to little": (
        lambda: Grid.around(coords((0, 0, -(2**63), 0), (0, 0, 2**63 - 1, 0))),
        rf"span {2**64 - 1} voxels",
    ),
    "beyond 32 bits": (
        lambda: Grid.around(coords((0, 2**40, 0, 0), (0, 2**40 + 3, 0, 0))),
        rf"from 0 to {2**40 + 3}; 32 bits",
    ),
    "a negative scan": (lambda: Grid.around(coords((-1, 0, 0, 0))), "span 0 voxels"),
    "512 scans": (lambda: Grid.around(coords((512, 0, 0, 0))), "513 scans"),
    "many voxels, in a layer": (
        lambda: Conv3d(4, 4)(tensor_of(coords((0, -(2**62), 0, 0), (0, 2**62, 0, 0)))),
        rf"span {2**63} voxels",
    ),
    "a voxel twice": (
        lambda: Conv3d(4, 4)(tensor_of(coords((0, 1, 2, 3), (0, 4, 5, 6), (0, 1, 2, 3)))),
        "some of 3 voxels have the same coordinates",
    ),
    "keys of 32 bits": (lambda: argsort(torch.zeros(5, dtype=I32)), r"int32 \[5\]; expected int64"),
    "negative keys": (lambda: argsort(torch.tensor([3, -1])), "from -1 to 3"),
    "order beyond": (
        lambda: level(order=torch.arange(60).int() + 1),
        "from 1 to 60; allowed are 0",
    ),
    "order too short": (lambda: level(order=torch.zeros(5).int()), r"60 voxels.*order int32 \[5\]"),
    "a stride of 0": (lambda: x().cache.level((0, 1, 1)), r"stride of \(0, 1, 1\)"),
    "a stride beyond the keys": (lambda: x().cache.level((8192, 1, 1)), "8192.*1 to 4096"),
    # maps
    "a table of 64 bits": (
        lambda: KernelMap(torch.zeros(27, 5, dtype=I64), 5, False),
        r"int64 \[27, 5\]; expected int32",
    ),
    "a floating table": (lambda: KernelMap(torch.zeros(27, 5), 5, False), r"float32 \[27, 5\]"),
    "a flat table": (lambda: KernelMap(torch.zeros(27, dtype=I32), 5, False), r"int32 \[27\]"),
    "a table beyond": (
        lambda: KernelMap(torch.full((1, 5), 10**9, dtype=I32), 5, False),
        "from 1000000000 to 1000000000; allowed are -1 to 4",
    ),
    "a table below": (
        lambda: KernelMap(torch.full((1, 5), -(10**9), dtype=I32), 5, False),
        "from -1000000000 to .* allowed are -1 to 4",
    ),
    "a row twice": (
        lambda: KernelMap(torch.zeros(1, 5, dtype=I32), 5, False),
        "only 1 of 5 pairs",
    ),
    "not symmetric": (
        lambda: KernelMap(torch.arange(5).roll(1).int()[None], 5, True),
        "not its own mirror",
    ),
    "symmetric of two sizes": (
        lambda: KernelMap(torch.arange(5).int()[None], 6, True),
        "1, 6 and 5",
    ),
    "no offset": (lambda: KernelMap(torch.zeros(0, 5, dtype=I32), 5, False), "0 offsets"),
    "a kernel of 0": (lambda: kernel_map(x().cache, ONE, (0, 1, 1), ONE, ONE), r"\(0, 1, 1\)"),
    "a step of 0": (lambda: kernel_map(x().cache, ONE, THREE, (0, 1, 1), ONE), r"\(0, 1, 1\)"),
    "a negative dilation": (lambda: kernel_map(x().cache, ONE, THREE, ONE, (-1, 1, 1)), "-1"),
    "a kernel beyond the keys": (
        lambda: kernel_map(x().cache, ONE, THREE, ONE, (2000, 1, 1)),
        "reaches 6000 voxels; at most 4096",
    ),
    "a layer of size 0": (lambda: Conv3d(4, 4, 0), "0 is no size"),
    "a layer of half a voxel": (lambda: Conv3d(4, 4, 3, 0.5), "0.5 is no size"),
    "a layer of two axes": (lambda: Conv3d(4, 4, (3, 3)), r"\(3, 3\) is no size"),
    "a layer without channels": (lambda: Conv3d(4, 0), "4 to 0 channels"),
    # tables
    "a table of 5 columns": (
        lambda: gather_sum(torch.randn(1, 8), table()),
        "1 rows of features for a table of 5",
    ),
    "more rows than columns": (
        lambda: gather_sum(torch.randn(6, 8), table()),
        "6 rows of features for a table of 5",
    ),
    "flat rows": (lambda: gather_sum(torch.randn(5), table()), r"float32 \[5\]"),
    "integer rows": (lambda: gather_sum(torch.ones(5, 8).int(), table()), r"int32 \[5, 8\]"),
    "rows elsewhere": (lambda: gather_sum(torch.ones(5, 8, device="meta"), table()), "on meta"),
    "an index beyond": (
        lambda: table(index=(0, 10**9, 1)),
        "from 0 to 1000000000; allowed are 0 to 4",
    ),
    "an index below": (lambda: table(index=(0, -(10**9), 1)), "from -1000000000 to 1; allowed"),
    "an index of 64 bits": (
        lambda: replace(table(), index=torch.tensor([0, 4, 1])),
        r"index is int64 \[3\]; expected int32",
    ),
    "weights of 64 bits": (
        lambda: replace(table(), weight=torch.ones(3, dtype=torch.float64)),
        r"weight is float64 \[3\]; expected float32 \[3\]",
    ),
    "weights of 16 bits": (lambda: replace(table(), weight=torch.ones(3).half()), r"float16 \[3\]"),
    "fewer weights": (
        lambda: table(weight=(1.0, 1.0)),
        r"weight is float32 \[2\]; expected float32 \[3\]",
    ),
    "bounds of 32 bits": (
        lambda: replace(table(), ptr=torch.tensor([0, 2, 3]).int()),
        r"ptr is int32 \[3\]; expected int64",
    ),
    "bounds beyond": (lambda: table(ptr=(0, 2, 40)), "from 0 to 40; expected 0 to 3"),
    "bounds that begin late": (lambda: table(ptr=(1, 2, 3)), "from 1 to 3; expected 0 to 3"),
    "bounds that go back": (lambda: table(ptr=(0, 7, 3)), "goes back"),
    "no bounds": (lambda: table(ptr=(), index=(), weight=()), "ptr is empty"),
    "entries of two lengths": (
        lambda: entries([0, 1], [0]),
        r"rows are int64 \[2\], index int64 \[1\]",
    ),
    "a row beyond": (lambda: entries([0, 7], [0, 1]), "rows run from 0 to 7; allowed are 0 to 1"),
    "a row below": (lambda: entries([0, -1], [0, 1]), "rows run from -1 to 0"),
    "an entry beyond": (lambda: entries([0, 1], [0, 5]), "index run from 0 to 5; allowed"),
    "an entry that 32 bits would wrap": (
        lambda: entries([0, 1], [0, 2**32 + 1]),
        rf"index run from 0 to {2**32 + 1}; allowed are 0 to 4",
    ),
    "floating entries": (lambda: entries([0.0, 1.0], [0, 1]), r"rows are float32 \[2\]"),
    "a lookup beyond": (
        lambda: GatherTable.lookup(torch.tensor([5]), 5),
        "from 5 to 5; allowed are 0 to 4",
    ),
    "a lookup that 32 bits would wrap": (
        lambda: GatherTable.lookup(torch.tensor([2**32]), 5),
        rf"from {2**32} to {2**32}; allowed are 0 to 4",
    ),
    # points
    "points with NaN": (
        lambda: devoxelize(x(), torch.tensor([[0, 1, torch.nan, 2], [0, 1, 1, 2]])),
        "only 1 of 2 points are finite",
    ),
    "points at infinity": (
        lambda: parents(x(), torch.tensor([[0, 1, torch.inf, 2]])),
        "only 0 of 1 points",
    ),
    "points of three columns": (
        lambda: devoxelize(x(), torch.zeros(5, 3)),
        r"float32 \[5, 3\]; expected \[P, 4\]",
    ),
    "means of NaN": (
        lambda: voxel_mean(down(), torch.zeros(2, 3), torch.full((2, 4), torch.nan)),
        "only 0 of 2 points are finite",
    ),
    "fewer features than points": (
        lambda: voxel_mean(down(), torch.zeros(2, 3), torch.zeros(7, 4)),
        "2 rows of features for a table of 7",
    ),
    "fewer features than voxels": (
        lambda: voxel_mean(down(), torch.zeros(2, 3)),
        "2 rows of features for a table of 60",
    ),
    "fewer features than the same voxels": (
        lambda: voxel_mean(x(), torch.zeros(2, 3)),
        "2 rows of features for voxels of 60",
    ),
    "an unknown pool": (lambda: local_pool(x(), 2, 2, "sum"), "'sum'; 'mean' and 'max'"),
    "a pool of size 0": (lambda: local_pool(x(), 0, 2, "max"), "0 is no size"),
    "a pool of other voxels": (
        lambda: local_pool(
            SparseTensor(torch.zeros(3, 8), x().coords[:3], ONE, x().cache), 2, 2, "max"
        ),
        "3 rows of features for a map of 60",
    ),
}


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch):
    """With the compiled kernels and without."""
    if request.param == "torch":
        for module in ("tensor", "maps", "points"):
            monkeypatch.setattr(f"core.sparse.{module}.library", lambda: None)
    elif library() is None:
        pytest.skip("the kernels are not compiled")


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_do_not_fit(name, path):
    call, message = CALLS[name]
    with pytest.raises(InvalidInput, match=message):
        call()


def conv_operator(**changes) -> torch.Tensor:
    t = kmap().tiles
    inputs = {"x": x().feats, "kernel": kernel(), "bias": None, "ptr": t.ptr}
    inputs |= {"rows_in": t.rows_in, "rows_out": t.rows_out, "n_out": 60}
    inputs |= {"mirror": False, "transpose": False}
    return torch.ops.lidistill.sparse_conv(**inputs | changes)


def grad_operator(**changes) -> torch.Tensor:
    p = kmap().offsets
    inputs = {"x": x().feats, "grad": torch.zeros(60, 16), "ptr": p.ptr}
    inputs |= {"rows_in": p.rows_in, "rows_out": p.rows_out}
    return torch.ops.lidistill.sparse_conv_weight_grad(**inputs | changes)


def rows(of: str, plus: int) -> torch.Tensor:
    return getattr(kmap().tiles, of) + plus


OPERATORS = {
    "fewer rows": (
        lambda: conv_operator(x=torch.zeros(1, 8)),
        "rows_in run from 0 to 59; .* 0 to 0",
    ),
    "fewer channels": (lambda: conv_operator(x=torch.zeros(60, 7)), r"\[60, 7\]; .*\[any, 8\]"),
    "float64": (lambda: conv_operator(x=x().feats.double()), r"float64 \[60, 8\]"),
    "a flat kernel": (lambda: conv_operator(kernel=kernel(8, 16)), r"float32 \[8, 16\]"),
    "an empty kernel": (lambda: conv_operator(kernel=kernel(27, 8, 0)), r"\[27, 8, 0\]"),
    "fewer offsets": (lambda: conv_operator(kernel=kernel(9, 8, 16)), r"int64 \[28\]; .*\[10\]"),
    "a short bias": (
        lambda: conv_operator(bias=torch.zeros(1)),
        r"\[1\]; expected floating \[16\]",
    ),
    "a short residual": (lambda: conv_operator(residual=torch.zeros(1, 16)), r"\[60, 16\]"),
    "more output rows": (lambda: conv_operator(n_out=600), r"int64 \[28\]; expected int64 \[55\]"),
    "fewer output rows": (lambda: conv_operator(n_out=5), "rows_out run from 0 to 59; .* 0 to 4"),
    "input rows beyond": (lambda: conv_operator(rows_in=rows("rows_in", 1)), "from 1 to 60"),
    "input rows below": (lambda: conv_operator(rows_in=rows("rows_in", -1)), "from -1 to 58"),
    "output rows beyond": (lambda: conv_operator(rows_out=rows("rows_out", 9)), "from 9 to 68"),
    "rows of 64 bits": (lambda: conv_operator(rows_in=rows("rows_in", 0).long()), "int64 .*int32"),
    "fewer pairs": (lambda: conv_operator(rows_in=rows("rows_in", 0)[1:]), r"rows_out is int32"),
    "bounds beyond the pairs": (lambda: conv_operator(ptr=rows("ptr", 40)), "ptr runs from 40 to"),
    "bounds of 32 bits": (lambda: conv_operator(ptr=rows("ptr", 0).int()), r"int32 \[28\]"),
    "gradients of fewer rows": (
        lambda: grad_operator(grad=torch.zeros(1, 16)),
        "rows_out run from 0 to 59; allowed are 0 to 0",
    ),
    "gradients for fewer rows": (lambda: grad_operator(x=torch.zeros(1, 8)), "rows_in run from"),
    "gradients of float64": (lambda: grad_operator(x=x().feats.double()), r"float64 \[60, 8\]"),
    "gradients without channels": (lambda: grad_operator(grad=torch.zeros(60, 0)), r"\[60, 0\]"),
    "gradients with wild bounds": (lambda: grad_operator(ptr=rows("ptr", 7)), "ptr runs from 7"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_that_do_not_fit(name):
    assert native
    if not library_status()[0]:
        pytest.skip("the kernels are not compiled")
    call, message = OPERATORS[name]
    with pytest.raises(InvalidInput, match=message):
        call()


def test_pairs_outside_of_their_tile_are_refused():
    """Rows of the second tile of 512 in the first: the kernel would write in front of its block."""
    if not library_status()[0]:
        pytest.skip("the kernels are not compiled")
    n = 600
    whole = KernelMap(torch.arange(n, dtype=I32)[None], n, True).tiles
    inputs = (torch.zeros(n, 8), torch.zeros(1, 8, 8), None, whole.ptr, whole.rows_in)
    with pytest.raises(InvalidInput, match="outside of its tile of 512"):
        torch.ops.lidistill.sparse_conv(*inputs, whole.rows_out.flip(0), n, False, False)


@pytest.mark.parametrize(
    "tensor, message",
    [
        (torch.zeros(3, 4).T, r"float32 \[4, 3\] with gaps; expected float32 \[4, 3\]"),
        (torch.zeros(4, 3).int(), r"int32 \[4, 3\]"),
        (torch.zeros(4, 2), r"float32 \[4, 2\]; expected float32 \[4, 3\]"),
        (torch.zeros(4, 3, device="meta"), "on meta, not on cpu"),
    ],
)
def test_no_address_of_anything_else(tensor, message):
    with pytest.raises(InvalidInput, match=message):
        pointer(tensor, torch.float32, 4, 3)


def test_an_error_is_a_users_and_a_value_error():
    """Commands print it as a paragraph; code that calls the engine may catch what torch would raise."""
    assert issubclass(InvalidInput, UserError) and issubclass(InvalidInput, ValueError)


def test_points_outside_of_the_grid_lie_in_no_voxel():
    """Their keys would run into those of other axes: x beyond its 18 bits is the next scan."""
    place = coords((0, 0, 0, 0), (1, 0, 0, 0), (1, 5, 0, 0))
    voxels = tensor_of(place, 1)
    far = [(0, 1 << 18, 0, 0), (1, -(1 << 18), 0, 0), (0, 5, 1 << 36, 0), (0, 0, 0, 2**62)]
    far += [(-1, 1 << 18, 0, 0), (512, 0, 0, 0)]
    assert parents(voxels, coords(*far)).tolist() == [-1] * 6
    assert parents(voxels, coords(*far).double()).tolist() == [-1] * 6
    assert not devoxelize(voxels, coords(*far)).any()
    assert parents(voxels, place).tolist() == [0, 1, 2]


def test_the_same_under_optimisation():
    """``python -O`` strips assertions; what keeps memory whole is none. The window attention's calls, too."""
    folders = [TESTS / "sparse", TESTS / "sptr", TESTS.parent / "third_party/SparseTransformer"]
    code = f"""
import sys; sys.path[:0] = {[*map(str, folders), str(TESTS.parent)]!r}
import test_sparse_wrong_calls as sparse, test_sptr_wrong_calls as sptr
if __debug__: raise SystemExit("not optimised")
for calls in (sparse.CONVOLUTIONS, sparse.CALLS, sparse.OPERATORS, sptr.CALLS):
    for name, (call, _) in calls.items():
        try: call()
        except ValueError: continue
        raise SystemExit("accepted: " + name)
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def three_layers(x: SparseTensor) -> None:
    """A symmetric, a strided and a transposed convolution, forward and backward."""
    layers = Conv3d(8, 8), Conv3d(8, 8, 2, 2), Conv3d(8, 8, 2, 2, transposed=True)
    for layer in layers:
        x = layer(x)
    x.feats.sum().backward()


def test_maps_are_proven_where_they_are_made_and_not_in_each_call(monkeypatch):
    for operator in ("check_range", "check_ascending"):
        monkeypatch.setattr(native, operator, lambda *a: pytest.fail("a map was proven again"))
    fresh = scene(60, 8, dtype=torch.float32)
    three_layers(fresh)
    three_layers(fresh)


def test_a_proof_keeps_no_map_alive():
    fresh = scene(60, 8, dtype=torch.float32)
    three_layers(fresh)
    made = kernel_map(fresh.cache, ONE, TWO, TWO, ONE)
    kept = [made.tiles, made.transposed.tiles, made.offsets, made.transposed.offsets]
    tensors = [ref(tensor) for pairs in kept for tensor in (pairs.ptr, pairs.rows_in)]
    del fresh, made, kept
    assert [tensor() for tensor in tensors] == [None] * 8
