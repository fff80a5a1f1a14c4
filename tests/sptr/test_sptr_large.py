"""Windows of thousands of tokens: several threads share them, memory grows with the tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sptr_cases import make_case, some_rows

PACKAGE = Path(__file__).resolve().parents[2] / "third_party" / "SparseTransformer"


def check_rows(case, out: torch.Tensor, grads: list[torch.Tensor], count: int) -> None:
    """A few rows of every result against float64."""
    index = case.index
    lse = torch.ops.sptr.window_attention(
        *case.features,
        *case.tables,
        index.order,
        index.ptr,
        index.positions,
        index.levels,
        index.kind == "radial",
    )[1]
    tokens = torch.randperm(len(out), generator=torch.Generator().manual_seed(1))[:count]
    tokens[:2] = torch.tensor([0, len(out) - 1])
    expected = some_rows(case, tokens, lse, (out * case.grad).sum(-1))
    for name, got, want in zip(("out", "grad_q", "grad_k", "grad_v"), (out, *grads), expected):
        error = float((got[tokens].double() - want).abs().max() / want.abs().max())
        assert error < 2e-5, f"{name}: {error:.1e}"


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_threads_share_a_large_window_without_changing_a_bit(kind, isa):
    """2,100 tokens are nine blocks of keys that take turns; a second large window and small ones run beside it."""
    from sptr import fused_window_attention

    case = make_case([2100, 30, 2049, 100], 1, 8, kind)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out, grads = case.run(fused_window_attention)
        results.append([out, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("kind", ["cubic", "radial"])
def test_rows_of_a_large_window(kind, isa):
    """Rows of out and of the gradients of q, k and v; the tables' gradients through what they have in common."""
    from sptr import fused_window_attention

    case = make_case([2305], 2, 8, kind, levels=4)
    out, grads = case.run(fused_window_attention)
    check_rows(case, out, grads[:3], 6)
    for grad in grads[3:]:  # a pair adds the same to one row of every axis
        per_axis = grad.double().sum(0)
        torch.testing.assert_close(
            per_axis[1:], per_axis[:1].expand(2, -1, -1), rtol=1e-4, atol=1e-2
        )


def test_memory_grows_with_the_tokens(tmp_path):
    """12,000 tokens in one window: 1.4e8 pairs would be 576 MB per head in fp32. Its own process sees its own peak."""
    code = f"""
import sys; sys.path[:0] = [{str(PACKAGE)!r}, {str(Path(__file__).parent)!r}]
import resource, torch, sptr, sptr_cases
torch.set_num_threads(2)
sptr_cases.make_case([2100], 1, 8, "radial").run(sptr.fused_window_attention)
case = sptr_cases.make_case([12000], 1, 8, "radial", 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out, grads = case.run(sptr.fused_window_attention)
torch.save((out, grads), {str(tmp_path / "result.pt")!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert int(done.stdout) < 12_000  # KiB; one tensor of features takes 375
    check_rows(make_case([12000], 1, 8, "radial", 24), *torch.load(tmp_path / "result.pt"), 4)
