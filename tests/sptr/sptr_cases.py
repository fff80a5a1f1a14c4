"""Random attention problems and their dense float64 answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NAMES = ("query", "key", "value", "query table", "key table", "value table")


@dataclass
class Case:
    """Inputs of one attention; features [N, h, d], tables [L, 3, h, d], all float32."""

    index: object
    features: list[Tensor]
    tables: list[Tensor | None]
    grad: Tensor

    def run(
        self, attention, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Output, and gradients of the six inputs (None for an absent table)."""
        leaves = [
            None if x is None else x.detach().to(dtype, copy=True).requires_grad_()
            for x in (*self.features, *self.tables)
        ]
        out = attention(*leaves[:3], self.index, *leaves[3:])
        (
            out * self.grad.to(out.dtype)
        ).sum().backward()  # an explicit gradient would make torch import sympy, 2 s
        return out.detach(), [None if x is None else x.grad for x in leaves]

    def rounded(self, dtype: torch.dtype) -> Case:
        """The same numbers as ``dtype`` can hold them, in float32."""
        lists = {
            name: [x.to(dtype).float() for x in getattr(self, name)]
            for name in ("features", "tables")
        }
        return replace(self, grad=self.grad.to(dtype).float(), **lists)


_ANSWERS: dict[str, tuple[Tensor, list[Tensor | None]]] = {}


def dense_answer(case: Case) -> tuple[Tensor, list[Tensor | None]]:
    """Output and gradients of dense masked attention in float64, computed once for equal cases."""
    from sptr.reference import dense_window_attention

    index, digest = case.index, hashlib.sha256(f"{case.index.kind} {case.index.levels}".encode())
    for x in (*case.features, *case.tables, case.grad, index.order, index.ptr, index.positions):
        digest.update(
            b"none" if x is None else str(list(x.shape)).encode() + x.contiguous().numpy().tobytes()
        )
    if digest.hexdigest() not in _ANSWERS:
        _ANSWERS[digest.hexdigest()] = case.run(dense_window_attention, torch.float64)
    return _ANSWERS[digest.hexdigest()]


def some_rows(
    case: Case, tokens: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows ``tokens`` of out, grad_q, grad_k and grad_v of one window that holds everything, float64.

    A row of out needs no other; the weights that other queries give to a key follow from their ``lse`` and ``delta``.
    """
    from sptr import relative_index

    index, grad = case.index, case.grad.double()
    q, k, v, *tables = (x.double() for x in (*case.features, *case.tables))
    rows = [x[tokens].requires_grad_() for x in (q, k, v)]

    def positional(table: Tensor, query: Tensor, key: Tensor) -> Tensor:  # [queries, keys, h, d]
        relative = relative_index(query[:, None], key[None, :], index.kind, index.levels)
        return sum(table[relative[..., axis], axis] for axis in range(3))

    def logits(q: Tensor, k: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        first = torch.einsum("ihd,ijhd->ijh", q, k[None] + positional(tables[0], *at))
        return first + torch.einsum("jhd,ijhd->ijh", k, positional(tables[1], *at))

    own, every = index.positions[tokens], index.positions
    weights = logits(rows[0], k, (own, every)).softmax(1)
    out = torch.einsum("ijh,ijhd->ihd", weights, v[None] + positional(tables[2], own, every))
    out.backward(grad[tokens])
    score = logits(q, rows[1], (every, own))
    weights = (score - lse.double()[:, None]).exp().detach()
    values = torch.einsum("ihd,ijhd->ijh", grad, rows[2][None] + positional(tables[2], every, own))
    slope = (weights * (values - delta.double()[:, None])).detach()
    ((slope * score).sum() + (weights * values).sum()).backward()
    return (out.detach(), *(x.grad for x in rows))


def make_index(counts: list[int], kind: str, levels: int, generator: torch.Generator):
    """Windows with these populations, tokens shuffled, positions anywhere in the window."""
    from sptr import WindowIndex

    n = sum(counts)
    positions = torch.randint(0, levels, (n, 3), generator=generator).float()
    if kind == "radial":
        positions[:, 2] = torch.rand(n, generator=generator) * 3000
    ptr = torch.tensor([0, *counts]).cumsum(0)
    return WindowIndex(torch.randperm(n, generator=generator), ptr, positions, kind, levels)


def make_case(
    counts: list[int], heads: int, dim: int, kind: str = "cubic", levels: int = 6, seed: int = 0
) -> Case:
    """Random features, tables and positions."""
    generator = torch.Generator().manual_seed(seed)
    index = make_index(counts, kind, levels, generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    n = len(index.order)
    features = [normal(n, heads, dim) * dim**-0.5, normal(n, heads, dim), normal(n, heads, dim)]
    tables = [normal(index.table_length, 3, heads, dim) * 0.3 for _ in range(3)]
    return Case(index, features, tables, normal(n, heads, dim))


def assert_close(result, expected, tolerance: float) -> None:
    """Outputs and gradients agree to ``tolerance`` of the greatest expected value (or of 1: some are zero)."""
    pairs = [("output", result[0], expected[0]), *zip(NAMES, result[1], expected[1])]
    for name, got, want in pairs:
        if want is None:
            assert got is None, name
            continue
        assert got.shape == want.shape, name
        error = float((got.double() - want.double()).abs().max() / want.abs().max().clamp_min(1.0))
        assert error < tolerance, f"{name}: {error:.2e}"
