"""The GPU engine: its kernels compiled by nvcc, run on the host by an emulation of a GPU, and run on a GPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from loguru import logger
from sparse_scene import scene
from torch import Tensor

from core import doctor
from core.errors import UserError
from core.sparse import (
    Conv3d,
    MapCache,
    SparseTensor,
    build,
    build_cuda,
    convolve,
    device_maps,
    kernel_map,
    maps,
)
from core.sparse import library as loading
from core.sparse.backends import cuda

STRIDE_1 = (1, 1, 1)
NO_COMPILER, NO_NVCC = "no C++ compiler", "no nvcc"
EMULATION = Path(__file__).parent / "emulation"
TOLERANCE = {
    "fp32": 2e-6,
    "tf32": 3e-3,
    "fp16": 2e-3,
    "bf16": 1e-2,
}  # greatest error / greatest value
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@pytest.fixture
def arithmetic(request):
    """fp32, tf32, fp16 or bf16, with PyTorch's TF32 switch set accordingly."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if request.param == "tf32" else "ieee"
    yield request.param
    torch.backends.cuda.matmul.fp32_precision = before


def parameters(kmap, cin: int, cout: int, dtype, device="cpu") -> list[Tensor]:
    """Features, kernel and bias that require gradients."""
    g = torch.Generator().manual_seed(1)
    shapes = (kmap.n_in, cin), (kmap.volume, cin, cout), (cout,)
    return [torch.randn(s, generator=g).to(device, dtype).requires_grad_() for s in shapes]


def results(function, tensors: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of all inputs for a fixed gradient of the output."""
    y = function(*tensors)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y.detach(), *torch.autograd.grad(y, tensors, probe)]


def errors(kmap, tensors: list[Tensor]) -> list[float]:
    """Greatest error / greatest value of the output and of the gradients of x, kernel and bias, against float64."""
    ours = results(lambda x, w, b: cuda.convolve(x, w, b, kmap), tensors)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    theirs = results(lambda x, w, b: convolve(x, w, b, kmap, "torch"), exact)
    return [
        float((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-9))
        for a, b in zip(ours, theirs)
    ]


def map_of(x: SparseTensor, kernel=(3, 3, 3), step=STRIDE_1):
    return kernel_map(x.cache, STRIDE_1, kernel, step, STRIDE_1)


# --- on the host, by emulation ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory):
    """csrc/cuda compiled for the host, and its operators registered for CPU tensors."""
    cxx, folder = build.compiler(), tmp_path_factory.mktemp("emulation")
    if cxx is None:
        pytest.skip(NO_COMPILER)
    flags = ["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-Wno-unknown-pragmas", f"-I{EMULATION}"]

    def compile_unit(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        subprocess.run([cxx, *flags, "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_unit, sorted(build_cuda.SOURCES.glob("*.cu"))))
    subprocess.run([cxx, "-shared", *objects, "-o", str(folder / "emulated.so")], check=True)
    operators = torch.library.Library("lidistill", "IMPL", "CPU")
    operators.impl("table_conv", cuda._table_conv)
    operators.impl("table_conv_weight_grad", cuda._table_conv_weight_grad)
    yield loading.load(str(folder / "emulated.so"), loading._CUDA_SIGNATURES)
    operators._destroy()


@pytest.fixture
def gpu(emulated_library, monkeypatch):
    """CPU tensors take the GPU's way; fresh memory holds NaN, so what no thread writes shows."""
    monkeypatch.setattr(loading, "cuda_library", lambda: emulated_library)
    monkeypatch.setattr(loading, "_stream", lambda device: nullcontext(0))
    monkeypatch.setattr(maps, "has_cuda_kernels", lambda device: True)
    monkeypatch.setattr(cuda, "serves", lambda x: x.dtype in cuda._CODES)
    emulated_library.emulation_configure(0, 0, 256)
    torch.use_deterministic_algorithms(True)
    yield emulated_library
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("arithmetic", ["fp32", "tf32", "fp16", "bf16"], indirect=True)
@pytest.mark.parametrize(
    "cin, cout, kernel, step, few_blocks",
    [
        (4, 32, (3, 3, 3), STRIDE_1, 256),  # the smallest tile of each type
        (33, 19, (2, 2, 2), (2, 2, 2), 256),  # odd widths, two steps of channels
        (9, 70, (1, 1, 3), STRIDE_1, 256),
        (21, 96, (2, 2, 2), (2, 2, 2), 0),  # the largest tiles, as for many rows
        (8, 130, (1, 3, 1), STRIDE_1, 0),
    ],
)
def test_emulated_kernels_equal_float64(gpu, arithmetic, cin, cout, kernel, step, few_blocks):
    gpu.emulation_configure(3, 0, few_blocks)
    kmap = map_of(scene(150, 1), kernel, step)
    assert (
        max(errors(kmap, parameters(kmap, cin, cout, DTYPES[arithmetic]))) < TOLERANCE[arithmetic]
    )


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"], indirect=True)
def test_order_of_threads_and_of_copies_changes_no_bit(gpu, arithmetic):
    kmap, outcomes = map_of(scene(100, 1), (1, 3, 3)), []
    for seed, eager in ((0, 0), (1, 1), (2, 0)):
        gpu.emulation_configure(seed, eager, 256)
        outcomes.append(
            results(
                lambda x, w, b: cuda.convolve(x, w, b, kmap),
                parameters(kmap, 40, 33, DTYPES[arithmetic]),
            )
        )
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other))


def test_emulated_weight_gradient_over_many_chunks(gpu, monkeypatch):
    monkeypatch.setattr(cuda, "_split", lambda pairs, tiles: (-(-pairs // 32), 32))
    kmap = map_of(scene(300, 1), (3, 1, 1))
    assert max(errors(kmap, parameters(kmap, 5, 7, torch.float32))) < TOLERANCE["fp32"]


@pytest.mark.parametrize("arithmetic", ["fp32", "fp16", "bf16"], indirect=True)
@pytest.mark.parametrize("cout", [6, 7])
def test_bias_sum_and_rectifier_are_fused(gpu, arithmetic, cout):
    kmap, dtype = map_of(scene(80, 1), (1, 1, 3)), DTYPES[arithmetic]
    x, kernel, bias = (p.detach() for p in parameters(kmap, 8, cout, dtype))
    residual = torch.randn(kmap.n_out, cout, generator=torch.Generator().manual_seed(3)).to(dtype)
    expected = (
        convolve(x.double(), kernel.double(), bias.double(), kmap, "torch") + residual.double()
    )
    y = convolve(x, kernel, bias, kmap, "native", residual=residual, relu=True)
    assert (y.double() - expected.relu()).abs().max() < TOLERANCE[arithmetic] * expected.abs().max()
    assert 0.2 < (y == 0).double().mean() < 0.8
    with pytest.raises(ValueError, match="cannot add"):
        cuda.convolve_fused(x, kernel, bias, kmap, residual[1:], True)


def test_operators_keep_to_their_schemas_and_fake_kernels(gpu):
    kmap, checks = map_of(scene(40, 1), (1, 1, 3)), ("test_schema", "test_faketensor")
    x, kernel, bias = (p.detach() for p in parameters(kmap, 5, 7, torch.float32))
    t, p, grad = kmap.row_tiles, kmap.packed_pairs, torch.randn(kmap.n_out, 7)
    conv = (x, kernel, bias, t.rows, t.table, t.present, grad, True)
    torch.library.opcheck(torch.ops.lidistill.table_conv.default, conv, test_utils=checks)
    weight_grad = (x, grad, p.rows_in, p.rows_out, p.count)
    torch.library.opcheck(
        torch.ops.lidistill.table_conv_weight_grad.default, weight_grad, test_utils=checks
    )


def test_what_does_not_fit_is_refused(gpu):
    kmap = map_of(scene(20, 1), (1, 1, 3))
    x, kernel, _ = parameters(kmap, 8, 6, torch.float32)
    with pytest.raises(ValueError, match="5 channels"):
        cuda.convolve(x[:, :5], kernel, None, kmap)
    with pytest.raises(ValueError, match="3 offsets"):
        cuda.convolve(x, kernel[:2], None, kmap)
    with pytest.raises(ValueError, match="19 rows"):
        cuda.convolve(x[1:], kernel, None, kmap)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": lambda t: t * 0}, "do not name each of 20 output rows once"),
        ({"rows": lambda t: t.long()}, r"int64 \[20\]; expected int32 \[20\]"),
        ({"table": lambda t: t + 1}, "from 0 to 20; allowed are -1 to 19"),
        ({"table": lambda t: t[:, 1:]}, r"int32 \[3, 19\]; expected int32 \[3, 20\]"),
        ({"present": lambda t: t[:2]}, r"uint8 \[2, 1\]; expected uint8 \[3, 1\]"),
        ({"bias": lambda t: t[:1]}, r"\[1\]; expected floating \[6\]"),
        ({"x": lambda t: t.double()}, "float64"),
    ],
)
def test_tables_that_come_from_no_map_are_proven(gpu, change, message):
    kmap = map_of(scene(20, 1), (1, 1, 3))
    x, kernel, bias = (p.detach() for p in parameters(kmap, 8, 6, torch.float32))
    t = kmap.row_tiles
    inputs = {"x": x, "kernel": kernel, "bias": bias}
    inputs |= {"rows": t.rows, "table": t.table, "present": t.present}
    changed = {name: make(inputs[name]) for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        torch.ops.lidistill.table_conv(**inputs | changed)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": lambda t: t + 40}, "allowed are 0 to 20"),
        ({"count": lambda t: t[:1]}, r"int32 \[1\]; expected int32 \[3\]"),
        ({"rows_in": lambda t: t + 20}, "allowed are 0 to 19"),
        ({"rows_out": lambda t: t[:, :5]}, r"\[3, 5\]; expected int32 \[3, 20\]"),
        ({"grad": lambda t: t[:3]}, "rows_out run from 0 to 19; allowed are 0 to 2"),
        ({"x": lambda t: t[:, :0]}, r"x is float32 \[20, 0\]"),
    ],
)
def test_pairs_that_come_from_no_map_are_proven(gpu, change, message):
    kmap = map_of(scene(20, 1), (1, 1, 3))
    p = kmap.packed_pairs
    inputs = {"x": torch.zeros(20, 8), "grad": torch.zeros(20, 6)}
    inputs |= {"rows_in": p.rows_in, "rows_out": p.rows_out, "count": p.count}
    changed = {name: make(inputs[name]) for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        torch.ops.lidistill.table_conv_weight_grad(**inputs | changed)


def test_odd_views_are_read_right(gpu):
    """Features at an address that is no multiple of 16 bytes, transposed ones, and a kernel of another type."""
    kmap = map_of(scene(60, 1), (1, 1, 3))
    kernel = parameters(kmap, 8, 6, torch.float64)[1].detach()
    storage = torch.randn(8 * kmap.n_in + 1, generator=torch.Generator().manual_seed(0))
    for x in (storage[1:].view(-1, 8), storage[1:].view(8, -1).T):
        expected = convolve(x.double(), kernel, None, kmap, "torch")
        torch.testing.assert_close(
            cuda.convolve(x, kernel, None, kmap).double(), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("voxels", [0, 1, 64, 65])
def test_emulated_network_down_and_up(gpu, voxels):
    """Through the modules: symmetric, strided and transposed maps, and the gradients through all three."""
    torch.manual_seed(0)
    x = scene(voxels, 5, dtype=torch.float32)
    layers = Conv3d(5, 6, (3, 3, 1)), Conv3d(6, 7, 2, 2), Conv3d(7, 4, 2, 2, transposed=True)

    def run(feats: Tensor, cache: MapCache, backend: str, dtype) -> list[Tensor]:
        y = SparseTensor(feats, x.coords, STRIDE_1, cache)
        for layer in layers:
            layer.to(dtype).backend = backend
            y = layer(y)
        kernels = [layer.kernel for layer in layers]
        return [
            y.feats,
            *torch.autograd.grad(y.feats.square().sum(), [feats, *kernels], allow_unused=True),
        ]

    ours = run(x.feats.clone().requires_grad_(), x.cache, "native", torch.float32)
    theirs = run(x.feats.double().requires_grad_(), x.cache, "torch", torch.float64)
    assert ours[0].shape == (voxels, 4)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kernel, step",
    [((3, 3, 3), STRIDE_1), ((2, 2, 2), (2, 2, 2)), ((2, 1, 2), STRIDE_1), ((5, 5, 5), (5, 5, 5))],
)
def test_emulated_maps_equal_the_cpu_maps(emulated_library, gpu, monkeypatch, kernel, step):
    """Tables, transposed tables, tiles and pairs; 5x5x5 has more offsets than one launch takes."""
    x = scene(300, 1)
    ours = kernel_map(MapCache(x.coords), STRIDE_1, kernel, step, STRIDE_1)
    tables, packed, tiles = (ours.table, ours.transposed.table), ours.packed_pairs, ours.row_tiles
    monkeypatch.setattr(maps, "has_cuda_kernels", lambda device: False)
    theirs = kernel_map(MapCache(x.coords), STRIDE_1, kernel, step, STRIDE_1)
    assert torch.equal(tables[0], theirs.table) and torch.equal(tables[1], theirs.transposed.table)
    assert torch.equal(packed.count, theirs.offsets.ptr.diff().int())
    front = torch.arange(theirs.n_out) < packed.count[:, None]
    assert torch.equal(packed.rows_in[front], theirs.offsets.rows_in)
    assert torch.equal(packed.rows_out[front], theirs.offsets.rows_out)
    assert torch.equal(tiles.rows.sort()[0], torch.arange(theirs.n_out).int())
    assert torch.equal(tiles.table, theirs.table[:, tiles.rows.long()])
    for group in range(tiles.present.shape[1]):
        some = (tiles.table[:, 64 * group : 64 * group + 64] >= 0).any(1)
        assert torch.equal(tiles.present[:, group].bool(), some)


def test_the_search_ends_with_the_last_key(gpu):
    memory = torch.arange(4)  # what lies behind the two keys would match
    level = SimpleNamespace(keys=memory[:2], order=memory.int()[:2])
    table = device_maps.neighbours(level, level, torch.tensor([2, 0, -2]), symmetric=False)
    assert table.tolist() == [[-1, -1], [0, 1], [-1, -1]]


def test_pairs_of_one_direction_serve_the_other(gpu):
    kmap = map_of(scene(90, 1), (2, 2, 2), (2, 2, 2))
    packed, turned = kmap.packed_pairs, kmap.transposed.packed_pairs
    assert turned.rows_in is packed.rows_out and turned.rows_out is packed.rows_in


def test_rows_with_the_same_neighbours_stand_together(gpu):
    tiles = map_of(scene(400, 1, size=8), (2, 2, 2), (2, 2, 2)).transposed.row_tiles
    sets = (tiles.table >= 0).T
    changes = int((sets[1:] != sets[:-1]).any(1).sum())
    assert changes <= 7  # each voxel has one parent, through one of eight offsets


def test_a_failed_launch_is_raised(gpu, monkeypatch):
    broken = SimpleNamespace(
        lidistill_cuda_masks=lambda *a: 719, lidistill_cuda_error=lambda code: b"launch failure"
    )
    monkeypatch.setattr(loading, "cuda_library", lambda: broken)
    with pytest.raises(RuntimeError, match="lidistill_cuda_masks failed: launch failure"):
        device_maps.row_tiles(torch.zeros(1, 3, dtype=torch.int32))


# --- compiling ----------------------------------------------------------------------------------------------------

needs_nvcc = pytest.mark.skipif(build_cuda.nvcc() is None, reason=NO_NVCC)


@pytest.fixture(scope="module")
def cuda_path(tmp_path_factory) -> Path:
    """The GPU library: that of the set-up if it is up to date, else a fresh one."""
    if not build_cuda.cuda_library_path().is_file():
        return build_cuda.build_cuda(into=tmp_path_factory.mktemp("cuda"))
    return build_cuda.cuda_library_path()


@needs_nvcc
def test_nvcc_compiles_what_loads_without_a_driver(cuda_path):
    handle = loading.load(str(cuda_path), loading._CUDA_SIGNATURES)  # every function is there
    assert handle.lidistill_cuda_error(2) == b"out of memory"
    linked = subprocess.run(
        ["ldd", str(cuda_path)], capture_output=True, text=True, check=True
    ).stdout
    assert "cudart" not in linked and "torch" not in linked


@needs_nvcc
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_launch_reports_it(cuda_path):
    handle = loading.load(str(cuda_path), loading._CUDA_SIGNATURES)
    code = handle.lidistill_cuda_masks(None, 1, 1, None, None)
    assert code and handle.lidistill_cuda_error(code) != b"no error"


def fake_nvcc(folder: Path, monkeypatch, script: str) -> Path:
    path = folder / "fake-nvcc"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls.txt\nfor last; do :; done\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("NVCC", str(path))
    return folder / "calls.txt"


@pytest.fixture
def sources(tmp_path) -> Path:
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    for name in ("a.cu", "b.cu", "b.cuh"):
        (tmp_path / "csrc" / "cuda" / name).touch()
    return tmp_path / "csrc"


def test_one_build_for_ampere_hopper_and_later(sources, tmp_path, monkeypatch):
    calls = fake_nvcc(tmp_path, monkeypatch, 'echo made > "$last"')
    target = build_cuda.build_cuda(sources / "cuda", tmp_path / "lib")
    assert target.read_text() == "made\n"
    lines = calls.read_text().splitlines()
    assert len(lines) == 3 and all("-cudart static" in line for line in lines)
    for code in ("sm_80", "sm_90", "compute_90"):
        assert all(f"code={code} " in line for line in lines)
    (sources / "cuda" / "b.cuh").write_text("// changed")
    newer = build_cuda.build_cuda(sources / "cuda", tmp_path / "lib")
    assert newer != target and [path.name for path in (tmp_path / "lib").iterdir()] == [newer.name]


def test_a_failing_nvcc_is_quoted_and_leaves_the_cpu_library_alone(sources, tmp_path, monkeypatch):
    if build.compiler() is None:
        pytest.skip(NO_COMPILER)
    fake_nvcc(tmp_path, monkeypatch, 'echo "unsupported host compiler" >&2; exit 1')
    (sources / "answer.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "TARGET", tmp_path / "lib")
    with pytest.raises(UserError, match="unsupported host compiler"):
        build_cuda.build_cuda(sources / "cuda", tmp_path / "lib")
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{message}")
    try:
        path = build.build()
    finally:
        logger.remove(sink)
    assert ctypes.CDLL(str(path)).answer() == 42
    assert any("unsupported host compiler" in line for line in lines)


def test_no_nvcc_is_no_error(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(build_cuda.shutil, "which", lambda name: None)
    assert build_cuda.build_cuda(sources / "cuda", tmp_path / "lib") is None


@pytest.mark.parametrize(
    "nvcc, gpus, built, status",
    [
        (None, 0, False, "ok"),
        ("nvcc", 0, False, "warn"),
        (None, 1, False, "warn"),
        (None, 1, True, "ok"),
    ],
)
def test_doctor_tells_of_the_gpu_kernels(tmp_path, monkeypatch, nvcc, gpus, built, status):
    path = tmp_path / "liblidistill_cuda-0.so"
    if built:
        path.touch()
    monkeypatch.setattr(build_cuda, "cuda_library_path", lambda: path)
    monkeypatch.setattr(build_cuda, "nvcc", lambda: nvcc)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    row = doctor._gpu_kernels()
    assert row.status == status and (status == "ok" or row.cure)


def test_operators_have_fake_kernels():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, kernel, rows = (
            torch.empty(10, 4),
            torch.empty(27, 4, 6),
            torch.empty(9, dtype=torch.int32),
        )
        table, present = (
            torch.empty(27, 9, dtype=torch.int32),
            torch.empty(27, 1, dtype=torch.uint8),
        )
        ops = torch.ops.lidistill
        assert ops.table_conv(x, kernel, None, rows, table, present).shape == (9, 6)
        count = torch.empty(27, dtype=torch.int32)
        assert ops.table_conv_weight_grad(x, torch.empty(9, 6), table, table, count).shape == (
            27,
            4,
            6,
        )
