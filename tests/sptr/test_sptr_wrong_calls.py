"""Calls that do not fit: each is refused, in words that name the sizes, before the kernels see an address."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from sptr_cases import Case, make_case


@cache
def case(kind: str = "cubic") -> Case:
    """7 tokens in windows of 4 and 3, 2 heads of 16, 6 levels: tables of 11 rows (12 radial)."""
    return make_case([4, 3], 2, 16, kind)


def index(kind: str = "cubic", **changes):
    return replace(case(kind).index, **changes)


def order(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.long)


def positions(value: float, axis: int, kind: str = "cubic"):
    moved = case(kind).index.positions.clone()
    moved[3, axis] = value
    return index(kind, positions=moved)


def fused(kind: str = "cubic", **changes) -> torch.Tensor:
    from sptr import fused_window_attention

    q, k, v = case(kind).features
    table_q, table_k, table_v = case(kind).tables
    inputs = {"query": q, "key": k, "value": v, "index": case(kind).index}
    inputs |= {"query_table": table_q, "key_table": table_k, "value_table": table_v}
    return fused_window_attention(**inputs | changes)


def operator(name: str = "window_attention", kind: str = "cubic", **changes):
    import sptr  # registers the operators

    assert sptr
    at = case(kind).index
    inputs = dict(zip(("q", "k", "v"), case(kind).features))
    inputs |= dict(zip(("table_q", "table_k", "table_v"), case(kind).tables))
    inputs |= {"order": at.order, "ptr": at.ptr, "positions": at.positions}
    inputs |= {"levels": at.levels, "radial": kind == "radial"}
    return getattr(torch.ops.sptr, name)(**inputs | changes)


def backward(**changes):
    rows = torch.zeros(7, 2)
    gradients = {"lse": rows, "delta": rows, "grad": torch.zeros(7, 2, 16)}
    return operator("window_attention_backward", **gradients | changes)


def windows(coords=None, batch=None, **changes):
    from sptr import window_index

    coords = torch.rand(7, 3) if coords is None else coords
    batch = torch.zeros(len(coords)).long() if batch is None else batch
    return window_index(coords, batch, **{"window": 1.0, "quant": 0.25, "levels": 4} | changes)


def pairs(name: str, *arguments: torch.Tensor, **changes):
    import sptr

    inputs = {"index_0": torch.arange(7), "index_0_offsets": None, "index_1": torch.arange(7)}
    return getattr(sptr, name)(*arguments, **inputs | changes)


def layout(*counts):
    from sptr import pair_layout

    return pair_layout(torch.tensor(counts))


def softmax(rows: int, *ends: int):
    from sptr import scatter_softmax_csr

    return scatter_softmax_csr(torch.zeros(rows, 2), torch.tensor(ends))


Q = torch.zeros(7, 2, 16)
INDICES = {
    "order beyond": (
        lambda: index(order=case().index.order + 1),
        "7 tokens once; it runs from 1 to 7",
    ),
    "order below": (lambda: index(order=case().index.order - 1), "from -1 to 5"),
    "order far beyond": (lambda: index(order=case().index.order * 10**9), "from 0 to 6000000000"),
    "a token twice": (
        lambda: index(order=order(0, 0, 1, 2, 3, 4, 5)),
        "from 0 to 5 and leaves out 1",
    ),
    "floating order": (lambda: index(order=torch.zeros(7)), r"integer \[N\]; got float32 \[7\]"),
    "square order": (lambda: index(order=torch.zeros(7, 7).long()), r"int64 \[7, 7\]"),
    "fewer tokens": (lambda: index(order=order(0, 1)), r"\[2, 3\], one .* got float32 \[7, 3\]"),
    "bounds beyond": (lambda: index(ptr=order(0, 4, 47)), "from 0 to 7, .*; it runs from 0 to 47"),
    "bounds too near": (lambda: index(ptr=order(0, 4)), "runs from 0 to 4"),
    "bounds that begin late": (lambda: index(ptr=order(2, 4, 7)), "runs from 2 to 7"),
    "bounds that go back": (lambda: index(ptr=order(0, 9, 7)), "goes back between"),
    "no bounds": (lambda: index(ptr=order()), r"\[W \+ 1\]; got int64 \[0\]"),
    "no window": (lambda: index(ptr=order(0)), "runs from 0 to 0"),
    "floating bounds": (lambda: index(ptr=torch.tensor([0.0, 4, 7])), r"float32 \[3\]"),
    "a bin of NaN": (lambda: positions(torch.nan, 1), "must be finite"),
    "a bin at infinity": (lambda: positions(torch.inf, 1), "must be finite"),
    "a radius of NaN": (lambda: positions(torch.nan, 2, "radial"), "must be finite"),
    "a bin beyond": (lambda: positions(6.0, 2), r"bins 0\.\.5; they run from 0 to 6"),
    "a bin below": (lambda: positions(-1.0, 0, "radial"), r"bins 0\.\.5; they run from -1"),
    "half a bin": (lambda: positions(0.5, 0), r"bins 0\.\.5"),
    "integer positions": (lambda: index(positions=case().index.positions.int()), r"int32 \[7, 3\]"),
    "two axes": (lambda: index(positions=torch.zeros(7, 2)), r"\[7, 3\].*got float32 \[7, 2\]"),
    "an unknown kind": (lambda: index(kind="sphere"), "'sphere'"),
    "no level": (lambda: index(levels=0), "at least 1; got 0"),
    "half a level": (lambda: index(levels=2.5), "got 2.5"),
    "two devices": (lambda: index(ptr=torch.zeros(3, device="meta").long()), "one device"),
}
CALLS = INDICES | {
    # the fused attention
    "other tokens": (lambda: fused(query=Q[:5], key=Q[:5], value=Q[:5]), "7 tokens .*, the query 5"),
    "fewer keys": (lambda: fused(key=Q[:5]), r"share one shape .*\(5, 2, 16\), \(7, 2, 16\)"),
    "other heads": (lambda: fused(value=torch.zeros(7, 3, 16)), r"\(7, 2, 16\), \(7, 3, 16\)"),
    "flat heads": (lambda: fused(query=Q[0], key=Q[0], value=Q[0]), r"\(2, 16\)"),
    "65 channels": (lambda: fused(**dict.fromkeys(("query", "key", "value"), torch.zeros(7, 2, 65))),
                    "d <= 64"),
    "integers": (lambda: fused(**dict.fromkeys(("query", "key", "value"), Q.int())), "torch.int32"),
    "two types": (lambda: fused(key=Q.half()), "torch.float32, torch.float16"),
    "a short table": (lambda: fused(key_table=torch.zeros(10, 3, 2, 16)), r"L >= 11; .*\[10, 3, 2"),
    "a short radial table": (lambda: fused("radial", key_table=case().tables[1]), r"L >= 12; .*\[11"),
    "a table of two axes": (lambda: fused(value_table=torch.zeros(11, 2, 2, 16)), r"\[11, 2, 2, 16\]"),
    "an integer table": (lambda: fused(query_table=torch.zeros(11, 3, 2, 16).int()), "int32"),
    "a table elsewhere": (
        lambda: fused(query_table=torch.zeros(11, 3, 2, 16, device="meta")),
        r"one device; got \['cpu', 'meta'\]",
    ),
    # the registered operators
    "k of fewer tokens": (lambda: operator(k=Q[:1]), r"share one shape .*\(1, 2, 16\)"),
    "v of fewer channels": (lambda: operator(v=Q[..., :8]), r"share one shape .*\(7, 2, 8\)"),
    "k of another type": (lambda: operator(k=Q.double()), "torch.float64"),
    "a head of 100": (lambda: operator(q=torch.zeros(7, 2, 100)), "d <= 64"),
    "tables of two lengths": (
        lambda: operator(table_k=torch.zeros(13, 3, 2, 16)),
        r"one length; got \[11, 13, 11\]",
    ),
    "an operator's short table": (lambda: operator(table_v=torch.zeros(1, 3, 2, 16)), "L >= 11"),
    "an operator's order": (lambda: operator(order=torch.arange(7) + 1), "from 1 to 7"),
    "an operator's short order": (lambda: operator(order=torch.arange(3)), r"\[3, 3\], one"),
    "an operator's order of zeros": (lambda: operator(order=torch.zeros(7).long()), "leaves out 6"),
    "an operator's bounds": (lambda: operator(ptr=order(0, 4, 47)), "from 0 to 47"),
    "an operator's positions": (
        lambda: operator(positions=torch.full((7, 3), torch.nan)),
        "must be finite",
    ),
    "an operator's bins": (lambda: operator(positions=torch.full((7, 3), 6.0)), r"bins 0\.\.5"),
    "an operator's levels": (lambda: operator(levels=40), "L >= 79"),
    "an operator without levels": (lambda: operator(levels=0), "at least 1; got 0"),
    "an operator turned radial": (lambda: operator(radial=True), "L >= 12"),
    "lse of fewer tokens": (lambda: backward(lse=torch.zeros(1, 2)), r"\[7, 2\]; got float32 \[1, 2\]"),
    "lse of fewer heads": (lambda: backward(lse=torch.zeros(7, 1)), r"got float32 \[7, 1\]"),
    "delta of fewer tokens": (lambda: backward(delta=torch.zeros(1, 2)), r"delta must be .*\[1, 2\]"),
    "integer delta": (lambda: backward(delta=torch.zeros(7, 2).int()), r"delta .* got int32"),
    "grad of fewer tokens": (lambda: backward(grad=Q[:1]), r"\[7, 2, 16\]; got float32 \[1, 2, 16\]"),
    "backward of fewer keys": (lambda: backward(k=Q[:1]), "share one shape"),
    "backward's order": (lambda: backward(order=torch.arange(7) - 9), "from -9 to -3"),
    "row_dots": (lambda: torch.ops.sptr.row_dots(Q, Q[:1]), r"\[7, 2, 16\], \[1, 2, 16\]"),
    # windows
    "coordinates of two axes": (lambda: windows(torch.rand(7, 2)), r"\[7, 2\]"),
    "integer coordinates": (lambda: windows(torch.zeros(7, 3).int()), "torch.int32"),
    "NaN coordinates": (lambda: windows(torch.full((7, 3), torch.nan)), "finite"),
    "far coordinates": (lambda: windows(torch.eye(3) * 1e30), "2.62 windows"),
    "fewer samples": (lambda: windows(batch=torch.zeros(3)), r"\[7, 3\] and \[3\]"),
    "a negative sample": (lambda: windows(batch=torch.zeros(7) - 1), "from -1 to -1"),
    "half a sample": (lambda: windows(batch=torch.zeros(7) + 0.5), "from 0.5 to 0.5"),
    "a sample of NaN": (lambda: windows(batch=torch.full((7,), torch.nan)), "from nan to nan"),
    "too many samples": (lambda: windows(batch=torch.full((7,), 2**40)), "numbered 0 to 16777215"),
    "a window of nothing": (lambda: windows(window=0.0), "window must be positive"),
    "a base of NaN": (lambda: windows(kind="radial", base=torch.nan), "base positive"),
    "a window without end": (lambda: windows(window=torch.inf), "finite"),
    # operators on pairs, where torch would spread one row over all
    "one key for all": (lambda: pairs("attention_step1", Q, Q, index_1=order(0)), r"int64 \[1\]"),
    "keys of one head": (lambda: pairs("attention_step1", Q, Q[:, :1]), r"\[7, 1, 16\]"),
    "one weight for all": (lambda: pairs("attention_step2", torch.zeros(1, 2), Q), r"\[7, 2\]; got"),
    "one place for all": (
        lambda: pairs("dot_prod_with_idx", Q, Q, *case().tables[:2], torch.zeros(1, 3).long()),
        r"rel_idx must be \[7, 3\]; got int64 \[1, 3\]",
    ),
    "a table of one head": (
        lambda: pairs(
            "dot_prod_with_idx_all", Q, Q, *[case().tables[0][:, :, :1]] * 2, torch.zeros(7, 3).long()
        ),
        r"got float32 \[11, 3, 1, 16\]",
    ),
    "values of one place": (
        lambda: pairs(
            "attention_step2_with_rel_pos_value", torch.zeros(7, 2), Q, case().tables[2],
            torch.zeros(7, 1).long(),
        ),
        r"rel_idx must be \[7, 3\]",
    ),
    "runs of fewer rows": (lambda: softmax(7, 0, 4), r"4 rows, .*\[7, 2\]"),
    "a negative window": (lambda: layout(3, -1), "none negative"),
    "half a window": (lambda: layout(3.0, 1.5), "integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_do_not_fit(name):
    call, message = CALLS[name]
    with pytest.raises(ValueError, match="^sptr: .*" + message):
        call()


@pytest.mark.parametrize("name", ["order", "ptr", "positions"])
def test_an_index_written_to_afterwards(name):
    """The CPU kernels look at the values in every call."""
    at = make_case([4, 3], 2, 16).index
    getattr(at, name)[-1] = 10**6
    with pytest.raises(ValueError, match=f"sptr: {name}"):
        fused(index=at)


@pytest.mark.parametrize(
    "tensor, message",
    [
        (torch.zeros(3, 4).T, r"float32 \[4, 3\] with gaps; expected float32 \[4, 3\]"),
        (torch.zeros(4, 3).int(), r"int32 \[4, 3\]"),
        (torch.zeros(4, 3, device="meta"), "on meta, not on cpu"),
    ],
)
def test_no_address_of_anything_else(tensor, message):
    from sptr.library import pointer

    with pytest.raises(ValueError, match=message):
        pointer("lse", tensor, torch.float32, (4, 3))


def test_the_emulated_device_refuses_sizes_too():
    """On a GPU sizes are compared in each call, values where the index is made."""
    from sptr import cuda
    from sptr.inputs import Inputs

    at = case().index
    inputs = Inputs(*case().features, *case().tables, at.order, at.ptr, at.positions, 6, False)
    rows = torch.zeros(7, 2)
    for wrong in ({"k": Q[:1]}, {"table_v": Q}, {"order": at.order[:3]}, {"levels": 40}):
        with pytest.raises(ValueError, match=r"^sptr: "):
            cuda.forward(*inputs._replace(**wrong))
    for lse, delta, grad in ((rows[:1], rows, Q), (rows, rows[:1], Q), (rows, rows, Q[:1])):
        with pytest.raises(ValueError, match=r"^sptr: (lse|delta|grad) must be"):
            cuda.backward(*inputs, lse, delta, grad)


def test_published_code_finds_its_modules():
    import sptr
    from sptr import functional, modules, utils

    for module in (functional, modules, utils):
        assert all(getattr(sptr, name) is getattr(module, name) for name in module.__all__)
    assert {"VarLengthMultiheadSA", "SparseTrTensor", "sparse_self_attention"} <= set(
        modules.__all__
    )
    assert {"to_3d_numpy", "get_indices_params", "scatter_softmax_csr", "grid_sample"} == set(
        utils.__all__
    )
    assert "attention_step2_with_rel_pos_value" in functional.__all__
