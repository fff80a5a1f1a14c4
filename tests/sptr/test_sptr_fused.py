"""The fused operator: outputs and gradients of all six inputs against dense masked attention in float64."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from sptr_cases import assert_close, dense_answer, make_case

RAGGED = [
    1,
    5,
    40,
    1,
    17,
    33,
    2,
    70,
]  # both the pair-by-pair and the blocked kernels, partial blocks, single tokens


def compare(case, tolerance=3e-6, dtype=torch.float32):
    from sptr import fused_window_attention

    assert_close(case.run(fused_window_attention, dtype), dense_answer(case), tolerance)


@pytest.mark.parametrize("kind", ["cubic", "radial"])
@pytest.mark.parametrize("dim", [8, 16, 32, 48, 64])
def test_head_dimensions(kind, dim, isa):
    compare(make_case(RAGGED, 2, dim, kind, seed=dim))


@pytest.mark.parametrize("dim", [1, 5, 19])
def test_odd_head_dimensions(dim, isa):
    compare(make_case([1, 4, 37], 2, dim, "radial", seed=dim))


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_windows_larger_than_a_block(kind, isa):
    compare(make_case([515, 3, 257], 1, 8, kind))


@pytest.mark.parametrize("levels", [1, 2, 24, 40])
def test_levels(levels, isa):
    """Tables of 1 to 80 rows: within and beyond two pairs of registers."""
    compare(make_case([50, 9], 1, 16, "cubic", levels))
    compare(make_case([50, 9], 1, 16, "radial", levels))


def test_more_than_32_heads():
    compare(make_case([40, 6, 1], 37, 16, "radial"))


def test_one_token_windows_return_the_value():
    """A softmax over one key is 1: out = v + the tables' centre."""
    from sptr import fused_window_attention

    case = make_case([1] * 20, 2, 16, "cubic", levels=6)
    out = fused_window_attention(*case.features, case.index, *case.tables)
    centre = case.tables[2][5].sum(0)  # relative position 0 is row G - 1 on every axis
    torch.testing.assert_close(out, case.features[2] + centre)
    compare(replace(case, tables=[None, None, None]))


def test_large_logits_do_not_overflow(isa):
    case = make_case([60, 8], 2, 16)
    case.features[0] *= 200
    compare(case, 2e-4)


def test_first_keys_do_not_decide_the_maximum(isa):
    """The greatest logit sits in the last block of keys: earlier sums are rescaled."""
    case = make_case([700], 1, 8)
    order = case.index.order
    case.features[0][:] = case.features[0].abs()
    case.features[1][order[:256]] -= 10
    case.features[1][order[600:]] += 10
    compare(case, 1e-5)


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1, 2)])
def test_absent_tables(missing):
    case = make_case([50, 5, 1], 2, 16, "radial")
    case.tables = [None if at in missing else table for at, table in enumerate(case.tables)]
    compare(case)


def test_float64_runs_in_float64():
    compare(make_case(RAGGED, 2, 16), 1e-12, torch.float64)


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_empty(kind):
    from sptr import fused_window_attention, window_index

    nothing = torch.zeros(0, 3)
    index = window_index(nothing, torch.zeros(0, dtype=torch.long), 1.0, 0.25, levels=4, kind=kind)
    q, k, v = (torch.zeros(0, 2, 16, requires_grad=True) for _ in range(3))
    tables = [torch.ones(index.table_length, 3, 2, 16, requires_grad=True) for _ in range(3)]
    out = fused_window_attention(q, k, v, index, *tables)
    out.sum().backward()
    assert out.shape == (0, 2, 16) and all(torch.equal(t.grad, torch.zeros_like(t)) for t in tables)


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_thread_count_does_not_change_a_bit(kind):
    from sptr import fused_window_attention

    case = make_case([300, *([3, 9, 45, 20, 1] * 20)], 3, 16, kind)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        out, grads = case.run(fused_window_attention)
        results.append([out, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_batch_of_four_equals_four_batches_of_one(kind):
    """With the origin of the sample, what else is in the batch does not change a bit of a sample's result."""
    from sptr import fused_window_attention, spherical, window_index

    generator = torch.Generator().manual_seed(0)
    sizes = [150, 80, 1, 220]
    xyz = torch.cat(
        [torch.randn(n, 3, generator=generator) * 4 + 3 * b for b, n in enumerate(sizes)]
    )
    batch = torch.repeat_interleave(torch.tensor(sizes))
    coords = spherical(xyz) if kind == "radial" else xyz
    window = torch.tensor([40.0, 40.0, 120.0] if kind == "radial" else [3.0, 3.0, 3.0])
    q, k, v, grad = (torch.randn(len(xyz), 2, 16, generator=generator) for _ in range(4))

    tables = [torch.randn(12 - (kind == "cubic"), 3, 2, 16, generator=generator) for _ in range(3)]

    def run(rows, samples):
        index = window_index(coords[rows], samples, window, window / 6, levels=6, kind=kind)
        leaves = [x[rows].clone().requires_grad_() for x in (q, k, v)]
        out = fused_window_attention(*leaves, index, *tables)
        out.backward(grad[rows])
        return [out.detach(), *(x.grad for x in leaves)]

    together = run(torch.arange(len(xyz)), batch)
    for sample in range(len(sizes)):
        rows = (batch == sample).nonzero()[:, 0]
        alone = run(rows, torch.zeros(len(rows), dtype=torch.long))
        for a, b in zip(alone, together):
            assert torch.equal(a, b[rows])


def test_without_compiled_kernels():
    case = make_case([40, 3], 2, 16, "radial")
    with mock.patch("sptr.fused.library", return_value=None):
        compare(case)


def test_inputs_that_do_not_fit_are_named():
    from sptr import fused_window_attention

    case = make_case([4, 3], 2, 16)
    q, k, v = case.features
    with pytest.raises(ValueError, match="share one shape"):
        fused_window_attention(q, k[:5], v, case.index)
    with pytest.raises(ValueError, match="share one floating type"):
        fused_window_attention(q, k.double(), v, case.index)
    with pytest.raises(ValueError, match="query_table must be"):
        fused_window_attention(q, k, v, case.index, case.tables[0][:5])
    with pytest.raises(ValueError, match="describes 7 tokens"):
        fused_window_attention(q[:5], k[:5], v[:5], case.index)
    with pytest.raises(ValueError, match=r"bins 0\.\.5"):
        replace(case.index, positions=case.index.positions + 6)
