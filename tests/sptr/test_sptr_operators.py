"""The unfused operators, one by one, against loops over pairs in float64."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import pytest
import torch
from sptr_cases import assert_close, make_case


@pytest.fixture
def pairs():
    """Two windows of 3 and 2 sorted tokens, one alone: q, k, v, tables, rel, and the layout."""
    from sptr import pair_layout

    generator = torch.Generator().manual_seed(1)
    features = [
        torch.randn(6, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    tables = [
        torch.randn(5, 3, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    index_0, offsets_0, n_max, index_1, offsets_1 = pair_layout(torch.tensor([3, 2, 1]))
    rel = torch.randint(0, 5, (len(index_0), 3), generator=generator)
    weights = torch.rand(
        len(index_0), 2, generator=generator, dtype=torch.float64, requires_grad=True
    )
    return features, tables, rel, weights, (index_0, offsets_0, index_1, offsets_1, n_max)


def by_hand(pairs, logit=None, value=None):
    """Evaluate ``logit(m, i, j)`` [h] per pair, or the sum over a query's pairs of ``p * value(m, i, j)``."""
    (q, _, _), _, _, weights, (index_0, _, index_1, *_) = pairs
    steps = list(enumerate(zip(index_0.tolist(), index_1.tolist())))
    if logit is not None:
        return torch.stack([logit(m, i, j) for m, (i, j) in steps])
    out = [torch.zeros_like(q[0]) for _ in range(len(q))]
    for m, (i, j) in steps:
        out[i] = out[i] + weights[m][:, None] * value(m, i, j)
    return torch.stack(out)


def positional(table, rel, m):
    return sum(table[rel[m, axis], axis] for axis in range(3))


def check(got, want, leaves):
    torch.testing.assert_close(got, want)
    weights = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view_as(got)
    grads = [torch.autograd.grad((x * weights).sum(), leaves) for x in (got, want)]
    for a, b in zip(*grads):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b)


def test_attention_step1(pairs):
    from sptr import attention_step1

    (q, k, _), _, _, _, layout = pairs
    check(
        attention_step1(q, k, *layout),
        by_hand(pairs, lambda m, i, j: (q[i] * k[j]).sum(-1)),
        (q, k),
    )


def test_attention_step2(pairs):
    from sptr import attention_step2

    (_, _, v), _, _, weights, layout = pairs
    check(
        attention_step2(weights, v, *layout),
        by_hand(pairs, value=lambda m, i, j: v[j]),
        (weights, v),
    )


def test_dot_prod_with_idx(pairs):
    from sptr import dot_prod_with_idx

    (q, k, _), (tq, tk, _), rel, _, layout = pairs
    want = by_hand(
        pairs,
        lambda m, i, j: (q[i] * positional(tq, rel, m) + k[j] * positional(tk, rel, m)).sum(-1),
    )
    check(dot_prod_with_idx(q, k, tq, tk, rel, *layout), want, (q, k, tq, tk))


def test_dot_prod_with_idx_all(pairs):
    from sptr import attention_step1, dot_prod_with_idx, dot_prod_with_idx_all

    (q, k, _), (tq, tk, _), rel, _, layout = pairs
    want = attention_step1(q, k, *layout) + dot_prod_with_idx(q, k, tq, tk, rel, *layout)
    check(dot_prod_with_idx_all(q, k, tq, tk, rel, *layout), want, (q, k, tq, tk))


def test_attention_step2_with_rel_pos_value(pairs):
    from sptr import attention_step2_with_rel_pos_value

    (_, _, v), (_, _, tv), rel, weights, layout = pairs
    want = by_hand(pairs, value=lambda m, i, j: v[j] + positional(tv, rel, m))
    check(attention_step2_with_rel_pos_value(weights, v, tv, rel, *layout), want, (weights, v, tv))


def test_scatter_softmax_csr(pairs):
    from sptr import scatter_softmax_csr

    logits, offsets = (pairs[3] * 400).detach().requires_grad_(), pairs[4][1]
    want = torch.cat([logits[a:b].softmax(0) for a, b in pairwise(offsets)])
    check(scatter_softmax_csr(logits, offsets), want, (logits,))


@pytest.mark.parametrize("kind", ["cubic", "radial"])
@pytest.mark.parametrize("missing", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_whole_path_equals_the_dense_reference(kind, missing):
    from sptr import operator_window_attention
    from sptr.reference import dense_window_attention

    case = make_case([7, 1, 12, 3], 2, 8, kind)
    case.tables = [None if at in missing else table for at, table in enumerate(case.tables)]
    expected = case.run(dense_window_attention, torch.float64)
    assert_close(case.run(operator_window_attention, torch.float64), expected, 1e-12)
    with mock.patch("sptr.operators._SLICE", 100):  # many slices, the last one short
        assert_close(case.run(operator_window_attention, torch.float64), expected, 1e-12)
