"""bf16 and fp16 are read and written by the kernels themselves: fp32 arithmetic on the same numbers, rounded once."""

from __future__ import annotations

import pytest
import torch
from sptr_cases import assert_close, dense_answer, make_case

HALVES = [torch.bfloat16, torch.float16]
RAGGED = [1, 5, 40, 1, 17, 33, 2, 70]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(dtype, tolerance):
    """Inputs are exact in the type; results are rounded once."""
    from sptr import fused_window_attention

    case = make_case(RAGGED, 3, 16, "radial").rounded(dtype)
    assert_close(case.run(fused_window_attention, dtype), dense_answer(case), tolerance)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["cubic", "radial"])
@pytest.mark.parametrize("dim", [5, 16])
def test_equals_rounded_fp32_to_the_bit(dtype, kind, dim, isa):
    """Also the gradients of queries, which a window of several blocks sums over its blocks, in fp32."""
    case = make_case(
        [2100 if dim == 5 and kind == "radial" else 300, *RAGGED], 2, dim, kind
    ).rounded(dtype)
    index, tables = case.index, case.tables

    def results(dtype: torch.dtype) -> list[torch.Tensor]:
        layout = (*tables, index.order, index.ptr, index.positions, index.levels, kind == "radial")
        features = [x.to(dtype) for x in case.features]
        out, lse = torch.ops.sptr.window_attention(*features, *layout)
        delta = torch.linspace(-1, 1, lse.numel()).view_as(lse)
        grads = torch.ops.sptr.window_attention_backward(
            *features, *layout, lse, delta, case.grad.to(dtype)
        )
        return [out, lse, *grads]

    for got, want in zip(results(dtype), results(torch.float32)):
        assert torch.equal(got, want.to(got.dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_bit_pattern_is_read(dtype, isa):
    """A window of one token returns its value: all 65,536 numbers, subnormal and infinite ones too."""
    from sptr import WindowIndex, fused_window_attention

    value = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(-1, 1, 64)
    n = len(value)
    index = WindowIndex(torch.arange(n), torch.arange(n + 1), torch.zeros(n, 3), "cubic", 1)
    zero = torch.zeros_like(value)
    torch.testing.assert_close(
        fused_window_attention(zero, zero, value, index), value, rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_is_to_nearest_even(dtype, isa):
    """One token: out is the value table's centre. Random fp32 bit patterns and exact ties, against torch."""
    from sptr import WindowIndex, fused_window_attention

    generator = torch.Generator().manual_seed(0)
    heads = 2000
    patterns = torch.randint(-(2**31), 2**31, (heads, 64), generator=generator).int()
    exponents = torch.randint(
        95, 145, (1000, 64), generator=generator
    ).int()  # around the range of fp16
    patterns[:1000] = (patterns[:1000] & ~0x7F800000) | (exponents << 23)
    patterns[::2] &= (
        -0x1000 if dtype == torch.float16 else -0x8000
    )  # half of the last place is the last bit kept
    table = torch.nan_to_num(patterns.view(torch.float32), nan=1.0)
    index = WindowIndex(
        torch.zeros(1, dtype=torch.long), torch.tensor([0, 1]), torch.zeros(1, 3), "cubic", 1
    )
    zero = torch.zeros(1, heads, 64, dtype=dtype)
    tables = torch.zeros(1, 3, heads, 64)
    tables[0, 0] = table
    out = fused_window_attention(zero, zero, zero, index, value_table=tables)
    assert torch.equal(out[0], table.to(dtype))


def test_half_features_with_float_tables():
    from sptr import fused_window_attention

    case = make_case([40, 3], 2, 16).rounded(torch.bfloat16)
    tables = [table.clone().requires_grad_() for table in case.tables]
    out = fused_window_attention(*(x.bfloat16() for x in case.features), case.index, *tables)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and all(t.grad.dtype == torch.float32 for t in tables)


def test_rows_of_delta_do_not_depend_on_the_slice(monkeypatch):
    import sptr.fused

    case = make_case([50], 3, 16).rounded(torch.bfloat16)
    a, b = case.features[0].bfloat16(), case.grad.bfloat16()
    whole = torch.ops.sptr.row_dots(a, b)
    monkeypatch.setattr(sptr.fused, "_SLICE", 48 * 7)
    assert torch.equal(torch.ops.sptr.row_dots(a, b), whole)
    torch.testing.assert_close(
        whole.double(), (a.double() * b.double()).sum(-1), rtol=1e-5, atol=1e-5
    )
