"""The operators under torch.library's checks, torch.compile and autocast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from sptr_cases import make_case

PACKAGE = Path(__file__).resolve().parents[2] / "third_party" / "SparseTransformer"


def operator_inputs(case) -> tuple:
    index = case.index
    leaves = [x.clone().requires_grad_() for x in (*case.features, *case.tables)]
    return (*leaves, index.order, index.ptr, index.positions, index.levels, index.kind == "radial")


def test_operators_pass_the_checks_of_torch_library():
    """Schema, registration of autograd, fake tensors, and tracing with dynamic shapes, with gradients."""
    inputs = operator_inputs(make_case([40, 3, 1], 2, 16, "radial"))
    torch.library.opcheck(torch.ops.sptr.window_attention.default, inputs)
    inputs = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)
    out, lse = torch.ops.sptr.window_attention(*inputs)
    backward = (*inputs, lse, torch.zeros_like(lse), torch.ones_like(out))
    torch.library.opcheck(torch.ops.sptr.window_attention_backward.default, backward)
    torch.library.opcheck(torch.ops.sptr.row_dots.default, (out, out))


def layer_results(layer, forward, sizes: list[int], autocast: bool) -> list[torch.Tensor]:
    """Output and gradients of a layer on tokens of two windows, for each size."""
    results = []
    for n in sizes:
        cubic, radial = (make_case([n, 9], 1, 16, kind, 24).index for kind in ("cubic", "radial"))
        x = torch.randn(n + 9, 32, generator=torch.Generator().manual_seed(n)).requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = forward(x, cubic, radial)
        out.float().square().sum().backward()
        results += [out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]
    return results


@pytest.mark.parametrize(
    ("backend", "autocast"), [("eager", False), ("aot_eager", False), ("aot_eager", True)]
)
def test_a_layer_compiles_into_one_graph(backend, autocast):
    """The attention of a SphereFormer block, two numbers of tokens: values and gradients are those of eager mode."""
    from core.models.lidar.sphereformer import Attention

    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = Attention(32)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    expected = layer_results(layer, layer, [30, 41], autocast)
    got = layer_results(layer, compiled, [30, 41], autocast)
    assert expected[0].dtype == (torch.bfloat16 if autocast else torch.float32)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)


def test_autocast_keeps_tables_in_fp32():
    """Features of the surrounding layers are bf16; the tables and their gradients are not."""
    from core.models.lidar.sphereformer import Attention

    torch.manual_seed(0)
    layer, seen = Attention(32), []
    operator = torch.ops.sptr.window_attention
    with mock.patch.object(
        torch.ops.sptr, "window_attention", lambda *x: seen.append(x) or operator(*x)
    ):
        layer_results(layer, layer, [30], True)
    assert len(seen) == 2
    for inputs in seen:
        assert [x.dtype for x in inputs[:6]] == [torch.bfloat16] * 3 + [torch.float32] * 3
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_a_compiled_graph_names_missing_kernels():
    inputs = operator_inputs(make_case([4], 1, 8))
    with (
        mock.patch("sptr.fused.library", return_value=None),
        pytest.raises(RuntimeError, match=r"sptr\.build"),
    ):
        torch.ops.sptr.window_attention(*inputs)


def test_second_derivatives_are_refused():
    from sptr import fused_window_attention

    case = make_case([4], 1, 8)
    q = case.features[0].requires_grad_()
    out = fused_window_attention(q, *case.features[1:], case.index, *case.tables)
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        grad.sum().backward()


def test_a_training_step_does_not_import_the_compiler():
    """torch._dynamo and sympy cost seconds in every process."""
    code = f"""
import sys; sys.path.insert(0, {str(PACKAGE)!r})
import torch, sptr
index = sptr.WindowIndex(torch.arange(3), torch.tensor([0, 3]), torch.zeros(3, 3), "cubic", 1)
q, k, v = (torch.ones(3, 1, 8, requires_grad=True) for _ in range(3))
sptr.fused_window_attention(q, k, v, index, *torch.zeros(3, 1, 3, 1, 8, requires_grad=True)).sum().backward()
print(q.grad is not None, *(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True"]
