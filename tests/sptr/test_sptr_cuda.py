"""The CUDA kernels without a GPU: run on the host through an emulated device, and compiled by nvcc."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from emulated_cuda import compile_emulated, emulated_window_attention
from sptr_cases import assert_close, dense_answer, make_case, make_index

RAGGED = [1, 5, 40, 1, 17, 33, 2, 70]  # windows that share a tile, that fill several, single tokens
FEW, MANY = 1, 10_000  # multiprocessors: tiles of 128 tokens, and of 32


def tensors(result) -> list[torch.Tensor]:
    return [result[0], *(grad for grad in result[1] if grad is not None)]


# --- emulated -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory):
    from sptr.cuda import open_library

    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the emulation converts fp16 with x86 instructions")
    return open_library(compile_emulated(tmp_path_factory.mktemp("emulated")))


class Device:
    """What the emulated device has."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.set()

    def set(
        self, shared: int = 227 * 1024, processors: int = FEW, descending: bool = False
    ) -> None:
        self.library.sptr_emulation_device(shared, processors)
        self.library.sptr_emulation_order(int(descending))


@pytest.fixture
def device(emulated_library):
    from sptr import cuda

    cuda._fits.cache_clear()
    with mock.patch("sptr.cuda.cuda_library", return_value=emulated_library):
        yield Device(emulated_library)
    cuda._fits.cache_clear()


def check(case, tolerance=5e-6, dtype=torch.float32):
    assert_close(case.run(emulated_window_attention, dtype), dense_answer(case), tolerance)


@pytest.mark.parametrize("kind", ["cubic", "radial"])
@pytest.mark.parametrize("dim", [5, 8, 16, 32, 48, 64])
def test_emulated_head_dimensions(kind, dim, device):
    device.set(processors=MANY, descending=dim % 32 == 0)
    check(make_case(RAGGED, 2, dim, kind, seed=dim))


@pytest.mark.parametrize("kind", ["cubic", "radial"])
@pytest.mark.parametrize(("processors", "descending"), [(FEW, False), (FEW, True), (MANY, False)])
def test_emulated_windows_larger_than_a_tile(kind, processors, descending, device):
    """The order in which the threads of a block run must not matter: barriers are where they have to be."""
    device.set(processors=processors, descending=descending)
    check(make_case([260, 3, 1, 150], 1, 16, kind))


@pytest.mark.parametrize("levels", [1, 2, 24, 40])
@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_emulated_levels(levels, kind, device):
    check(make_case([50, 9], 1, 16, kind, levels))


def test_emulated_more_than_32_heads(device):
    check(make_case([20, 6, 1], 37, 8, "radial", 3))


def test_emulated_one_token_windows(device):
    case = make_case([1] * 40, 2, 16, levels=6)
    out, grads = case.run(emulated_window_attention)
    torch.testing.assert_close(out, case.features[2] + case.tables[2][5].sum(0))
    torch.testing.assert_close(grads[2], case.grad)  # the only key has weight one
    assert all(torch.allclose(grad, torch.zeros(()), atol=1e-5) for grad in (grads[0], grads[1]))


def test_emulated_empty_windows_between(device):
    case = make_case([7, 30], 2, 16, "radial")
    ptr = torch.tensor([0, 0, 7, 7, 7, 37, 37])
    check(replace(case, index=replace(case.index, ptr=ptr)))


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1, 2)])
def test_emulated_absent_tables(missing, device):
    case = make_case([50, 5, 1], 2, 16, "radial")
    case.tables = [None if at in missing else table for at, table in enumerate(case.tables)]
    check(case)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_emulated_half_precision(dtype, tolerance, device):
    check(make_case(RAGGED, 2, 16, "radial").rounded(dtype), tolerance, dtype)


def test_emulated_half_features_with_float_tables(device):
    case = make_case([40, 3], 2, 16).rounded(torch.bfloat16)
    tables = [table.clone().requires_grad_() for table in case.tables]
    out = emulated_window_attention(*(x.bfloat16() for x in case.features), case.index, *tables)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and all(t.grad.dtype == torch.float32 for t in tables)


def test_emulated_empty(device):
    index = make_index([], "radial", 4, torch.Generator())
    q, k, v = (torch.zeros(0, 2, 16, requires_grad=True) for _ in range(3))
    tables = [torch.ones(index.table_length, 3, 2, 16, requires_grad=True) for _ in range(3)]
    out = emulated_window_attention(q, k, v, index, *tables)
    out.sum().backward()
    assert out.shape == (0, 2, 16) and all(torch.equal(t.grad, torch.zeros_like(t)) for t in tables)


def test_emulated_large_logits_do_not_overflow(device):
    case = make_case([60, 8], 2, 16)
    case.features[0] *= 200
    check(case, 2e-4)


def test_emulated_sums_are_rescaled(device):
    """The greatest logits sit in the last keys, far above those before."""
    case = make_case([200], 1, 8)
    order = case.index.order
    case.features[0][:] = case.features[0].abs()
    for begin, shift in ((0, -15), (60, 0), (150, 15)):
        case.features[1][order[begin : begin + 60]] += shift
    check(case, 1e-5)


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_emulated_results_do_not_depend_on_tiles_or_neighbours(kind, device):
    """A token's output and gradients come from its window alone, in one order: the same bits whatever shares a tile."""
    counts = [30, 1, 100, 4]
    case = make_case(counts, 2, 16, kind)
    results = []
    for processors, shared in ((MANY, 227), (FEW, 227), (FEW, 80)):
        device.set(shared * 1024, processors)
        out, grads = case.run(emulated_window_attention)
        results.append([out, *grads[:3]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
    begin, end = case.index.ptr[2:4].tolist()  # the window of 100 tokens alone
    rows = case.index.order[begin:end]
    index = replace(
        case.index,
        order=torch.arange(100),
        ptr=torch.tensor([0, 100]),
        positions=case.index.positions[rows],
    )
    alone = replace(
        case, index=index, features=[x[rows] for x in case.features], grad=case.grad[rows]
    )
    out, grads = alone.run(emulated_window_attention)
    assert all(torch.equal(a, b[rows]) for a, b in zip([out, *grads[:3]], results[0]))


def test_emulated_deterministic_table_gradients(device):
    """Partial sums of a few tiles at a time, added in order; equal to the sums by atomics but for rounding."""
    device.set(processors=MANY)
    case = make_case(RAGGED, 2, 16, "radial")
    atomic = case.run(emulated_window_attention)
    two_tiles = mock.patch(
        "sptr.cuda._PARTIAL_BYTES", 2 * 4 * 2 * 3 * 12 * 16
    )  # of 2 heads, 12 rows, 16 channels
    # The real switch imports torch._inductor, seconds
    with two_tiles, mock.patch("torch.are_deterministic_algorithms_enabled", return_value=True):
        first, second = (case.run(emulated_window_attention) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second)))
    assert_close(first, dense_answer(case), 5e-6)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first)[:4], tensors(atomic)[:4]))


def test_emulated_wrong_positions_stay_inside_the_tables(device):
    """Nothing is validated on the device: bins are clamped, so that foreign memory is not read."""
    case = make_case([40, 3], 1, 16, "radial")
    wild = case.index.positions.clone()
    wild[::3] += 1e6
    wild[1::3] -= 1e6
    wild[5] = torch.nan
    case.index.positions[:] = wild  # an index made with them is refused
    out, grads = case.run(emulated_window_attention)
    assert torch.isfinite(out).all() and all(torch.isfinite(grad).all() for grad in grads)


def test_emulated_one_window_is_not_reached_by_infinities_of_another(device):
    case = make_case([20, 20], 1, 16)
    clean = case.run(emulated_window_attention)
    begin = case.index.order[:20]
    for features in case.features:
        features[begin] = torch.inf
    dirty = case.run(emulated_window_attention)
    rest = case.index.order[20:]
    for a, b in zip(tensors(clean)[:4], tensors(dirty)[:4]):
        assert torch.equal(a[rest], b[rest])


def test_tables_that_do_not_fit_take_the_unfused_path(device):
    from sptr.cuda import _fits

    device.set(shared=96 * 1024)
    where = torch.device("cpu")
    assert _fits(where, 64, 48, 24, True)
    with pytest.warns(UserWarning, match="1000 rows need more shared memory"):
        assert not _fits(where, 64, 1000, 500, True)
    with pytest.raises(ValueError, match="400 rows need more shared memory"):
        make_case([3], 1, 16, "radial", 200).run(emulated_window_attention)


def test_what_the_kernels_serve(device):
    """The dispatch of a CUDA tensor, told from its type, its device and the tables alone."""
    from sptr.fused import _is_native

    where = torch.device("cuda", 0)

    def served(dtype=torch.float16, capability=(9, 0), length=48):
        query = SimpleNamespace(device=where, dtype=dtype, shape=(100, 8, 16))
        with mock.patch("torch.cuda.get_device_capability", return_value=capability):
            return _is_native(query, length, length // 2, True)

    assert served() and served(torch.float32) and served(torch.bfloat16, (12, 0))
    assert not served(torch.float64) and not served(capability=(7, 5))
    for key in ("window_attention", "window_attention_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sptr::{key}", "CUDA")


def test_without_the_library_one_warning(monkeypatch, tmp_path):
    from sptr import build, cuda

    monkeypatch.setattr(build, "cuda_library_path", lambda: tmp_path / "libsptrcuda-0.so")
    cuda.cuda_library.cache_clear()
    with pytest.warns(UserWarning, match="CUDA kernels are missing") as caught:
        assert cuda.cuda_library() is None and cuda.cuda_library() is None
    cuda.cuda_library.cache_clear()
    assert len(caught) == 1 and not cuda.cuda_library_status()[0]
    with (
        mock.patch("sptr.cuda.cuda_library", return_value=None),
        pytest.raises(RuntimeError, match="are missing"),
    ):
        make_case([3], 1, 16).run(emulated_window_attention)


def test_errors_of_a_launch_are_raised(device):
    from sptr.cuda import CudaArgs, _call

    with pytest.raises(RuntimeError, match="CUDA error 1 in forward: invalid argument"):
        _call("forward", CudaArgs(padded=17), 0)


# --- compiled -----------------------------------------------------------------------------------------------------


def test_nvcc_compiles_for_both_generations():
    """Loading needs no driver; the machine code of both targets is in the file."""
    from sptr.build import build_cuda, cuda_compiler
    from sptr.cuda import open_library

    if cuda_compiler() is None:
        pytest.skip("no nvcc")
    library = build_cuda()
    open_library(library)
    content = library.read_bytes()
    assert b"forward_kernel" in content and b"sm_80" in content and b"sm_90" in content


def test_a_failing_nvcc_costs_nothing_else(tmp_path, monkeypatch, capsys):
    from sptr import build

    failing = tmp_path / "nvcc"
    failing.write_text("#!/bin/sh\necho 'no such architecture: sm_90' >&2; exit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("NVCC", str(failing))
    monkeypatch.setattr(build, "cuda_library_path", lambda: tmp_path / "libsptrcuda-0.so")
    assert build.build_all() == [build.library_path()]
    assert "no such architecture: sm_90" in capsys.readouterr().err
