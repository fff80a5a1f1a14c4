"""Engines that run a sparse convolution over a kernel map, behind one function.

``native`` (compiled, CPU and GPU) falls to ``torch`` for float64 and where nothing was compiled; ``spconv``
is optional and lazily imported. Choose with ``LIDISTILL_SPARSE_BACKEND`` or :func:`set_backend`.
"""

from __future__ import annotations

import os
from importlib import import_module

import torch
from torch import Tensor

from core.errors import UserError
from core.sparse.checks import (
    InvalidInput,
    check_channels,
    check_device,
    check_features,
    check_tensor,
)
from core.sparse.maps import KernelMap

__all__ = ["BACKENDS", "convolve", "get_backend", "set_backend"]

BACKENDS = {
    "native": "core.sparse.backends.native",
    "torch": "core.sparse.backends.torch_ref",
    "spconv": "core.sparse.backends.spconv",
}
_chosen: str | None = None


def set_backend(name: str | None) -> None:
    """Choose the engine for this process; None returns to the environment's choice.

    Raises:
        UserError: unknown name.
    """
    if name is not None and name not in BACKENDS:
        raise UserError(
            f"unknown sparse backend '{name}'; known: {', '.join(BACKENDS)}",
            where="LIDISTILL_SPARSE_BACKEND or set_backend",
        )
    global _chosen
    _chosen = name


def get_backend() -> str:
    """Return the name of the engine in force."""
    name = _chosen or os.environ.get("LIDISTILL_SPARSE_BACKEND", "native")
    if name not in BACKENDS:
        set_backend(name)  # raises
    return name


def _check(
    x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap, residual: Tensor | None
) -> None:
    """Refuse what does not fit together, for every engine alike; compiled ones would read past the ends."""
    where = "sparse convolution"
    check_tensor("the kernel", kernel, None, (None, None, None), where)
    check_channels(x, kernel)
    volume, _, cout = kernel.shape
    if volume != kmap.volume:
        raise InvalidInput(f"a kernel of {volume} offsets for a map of {kmap.volume}", where=where)
    check_features("x", x, kmap.n_in, "a map", where)
    if x.dtype != kernel.dtype:
        raise InvalidInput(f"features of {x.dtype} and a kernel of {kernel.dtype}", where=where)
    if bias is not None:
        check_tensor("the bias", bias, None, (cout,), where)
    if residual is not None:
        check_tensor("what is added (residual)", residual, None, (kmap.n_out, cout), where)
    check_device(kmap.device, where, features=x, kernel=kernel, bias=bias, residual=residual)


def convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    kmap: KernelMap,
    backend: str | None = None,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute ``y[o] = bias + sum_k x[table[k, o]] @ kernel[k]``, plus ``residual``, rectified with ``relu``.

    The last two cost next to nothing where the engine makes them part of the convolution and no gradient is wanted.

    Args:
        x: [n_in, Cin]. kernel: [K, Cin, Cout], same dtype. bias: [Cout] or None. residual: [n_out, Cout] or None.
        kmap: the neighbours. backend: overrides the choice in force.

    Returns:
        [n_out, Cout], dtype of x.

    Raises:
        InvalidInput: shapes, dtypes or devices do not fit together or not to the map; the same for every engine.
    """
    _check(x, kernel, bias, kmap, residual)
    engine = import_module(BACKENDS[backend or get_backend()])
    plain = residual is None and not relu
    inputs = (x, kernel, bias, residual)
    learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if not (plain or learning) and hasattr(engine, "convolve_fused"):
        y = engine.convolve_fused(x, kernel, bias, kmap, residual, relu)
        if y is not None:
            return y
    y = engine.convolve(x, kernel, bias, kmap)
    if residual is not None:
        y = y + residual.to(y.dtype)
    return torch.relu(y) if relu else y
