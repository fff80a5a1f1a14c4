"""The CUDA kernels on a GPU. Where there is one and nothing but torch, numpy, pytest and nvcc:
``pytest -m gpu --confcutdir=tests/sptr tests/sptr/test_sptr_gpu.py``.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from sptr_cases import assert_close, dense_answer, make_case

RAGGED = [1, 5, 40, 1, 17, 33, 2, 70]  # windows that share a tile, that fill several, single tokens


def tensors(result) -> list[torch.Tensor]:
    return [result[0], *(grad for grad in result[1] if grad is not None)]


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    from sptr.build import build_cuda

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert build_cuda() is not None, "these tests need nvcc"
    return torch.device("cuda")


def on(case, device: torch.device):
    """The case with every tensor on ``device``."""
    index = replace(
        case.index,
        **{name: getattr(case.index, name).to(device) for name in ("order", "ptr", "positions")},
    )
    lists = {
        name: [x if x is None else x.to(device) for x in getattr(case, name)]
        for name in ("features", "tables")
    }
    return replace(case, index=index, grad=case.grad.to(device), **lists)


def run_on(case, device, dtype=torch.float32):
    from sptr import fused_window_attention

    with mock.patch(
        "sptr.fused.operator_window_attention", side_effect=AssertionError("not the fused path")
    ):
        out, grads = on(case, device).run(fused_window_attention, dtype)
    return out.cpu(), [x if x is None else x.cpu() for x in grads]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["cubic", "radial"])
@pytest.mark.parametrize("dim", [8, 16, 32, 48, 64])
@pytest.mark.parametrize("levels", [6, 24])
def test_gpu_head_dimensions(gpu, kind, dim, levels):
    case = make_case([*RAGGED, 300], 2, dim, kind, levels, seed=dim)
    assert_close(run_on(case, gpu), dense_answer(case), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("counts", [[1] * 300, [1000], [3] * 150 + [1, 400]])
def test_gpu_windows(gpu, counts):
    """The gradient of a logit of a single token is pure rounding, which adds up in the tables."""
    case = make_case(counts, 2, 16, "radial", 24)
    assert_close(run_on(case, gpu), dense_answer(case), 5e-5)


@pytest.mark.gpu
def test_gpu_empty(gpu):
    from sptr import fused_window_attention

    case = on(make_case([], 2, 16, "radial"), gpu)
    out, grads = case.run(fused_window_attention)
    assert out.shape == (0, 2, 16) and not any(grad.any() for grad in grads)


@pytest.mark.gpu
def test_gpu_more_than_32_heads(gpu):
    case = make_case([40, 6, 1], 70, 16, "radial")
    assert_close(run_on(case, gpu), dense_answer(case), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("missing", [(0,), (1, 2), (0, 1, 2)])
def test_gpu_absent_tables(gpu, missing):
    case = make_case([50, 5, 1], 2, 16, "radial")
    case.tables = [None if at in missing else table for at, table in enumerate(case.tables)]
    assert_close(run_on(case, gpu), dense_answer(case), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("dim", [16, 64])
def test_gpu_half_precision(gpu, dtype, tolerance, dim):
    case = make_case(RAGGED, 3, dim, "radial").rounded(dtype)
    assert_close(run_on(case, gpu, dtype), dense_answer(case), tolerance)


@pytest.mark.gpu
def test_gpu_half_features_with_float_tables(gpu):
    from sptr import fused_window_attention

    case = on(make_case([40, 3], 2, 16), gpu)
    tables = [table.clone().requires_grad_() for table in case.tables]
    out = fused_window_attention(*(x.half() for x in case.features), case.index, *tables)
    out.float().sum().backward()
    assert out.dtype == torch.float16 and all(t.grad.dtype == torch.float32 for t in tables)


@pytest.mark.gpu
def test_gpu_deterministic_bits(gpu):
    case = make_case([*RAGGED, 3000, 900], 4, 16, "radial", 24)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (run_on(case, gpu) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second)))
    # Without the mode only the table gradients may differ, by rounding
    free = run_on(case, gpu)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first)[:4], tensors(free)[:4]))
    assert_close(first, [free[0], free[1]], 1e-5)


@pytest.mark.gpu
def test_gpu_other_stream(gpu):
    """The input is produced on the very stream, late: a kernel on another stream would read zeros."""
    from sptr import fused_window_attention

    case = make_case([300, 20], 2, 16, "radial")
    want, moved = dense_answer(case)[0], on(case, gpu)
    query = torch.zeros_like(moved.features[0])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        query.copy_(moved.features[0])
        out = fused_window_attention(query, *moved.features[1:], moved.index, *moved.tables)
    stream.synchronize()
    assert_close((out.cpu(), []), (want, []), 1e-5)


@pytest.mark.gpu
def test_gpu_does_not_wait_for_the_device(gpu):
    case = on(make_case(RAGGED, 2, 16, "radial"), gpu)
    from sptr import fused_window_attention

    case.run(fused_window_attention)
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.run(fused_window_attention)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_gpu_200000_tokens_in_one_window(gpu):
    """4e10 pairs, 160 GB in fp32: equal keys average the values, and memory is a small multiple of the tokens."""
    from sptr import WindowIndex, fused_window_attention

    n = 200_000
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(gpu)
    index = WindowIndex(
        order, torch.tensor([0, n], device=gpu), torch.ones(n, 3, device=gpu), "cubic", 2
    )
    value = (
        torch.linspace(-1, 3, n, device=gpu)[:, None, None]
        .expand(n, 1, 16)
        .contiguous()
        .requires_grad_()
    )
    q, k = (torch.ones(n, 1, 16, device=gpu, requires_grad=True) for _ in range(2))
    tables = [torch.zeros(3, 3, 1, 16, device=gpu, requires_grad=True) for _ in range(3)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fused_window_attention(q, k, value, index, *tables)
    out.sum().backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 40 * value.numel()  # bytes: ten tensors of features
    assert float((out.detach() - 1).abs().max()) < 1e-3
    assert float((value.grad - 1).abs().max()) < 1e-3
    assert float(q.grad.abs().max()) < 1e-2


@pytest.mark.gpu
def test_gpu_random_large_window_against_chosen_rows(gpu):
    """30,000 tokens in a window; 50 queries against float64."""
    from sptr import fused_window_attention
    from sptr.windows import relative_index

    case = on(make_case([30_000], 1, 16, "radial", 24), gpu)
    out = fused_window_attention(*case.features, case.index, *case.tables)
    rows = torch.arange(0, 30_000, 600, device=gpu)
    q, k, v = (x[:, 0].double() for x in case.features)
    table_q, table_k, table_v = (t[:, :, 0].double() for t in case.tables)
    for row in rows.tolist():
        index = relative_index(case.index.positions[row], case.index.positions, "radial", 24)

        def positional(table, index=index):
            return sum(table[index[:, axis], axis] for axis in range(3))

        weights = (
            k @ q[row] + positional(table_q) @ q[row] + (k * positional(table_k)).sum(1)
        ).softmax(0)
        want = weights @ (v + positional(table_v))
        assert float((out[row, 0].double() - want).abs().max()) < 1e-4
