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
from core.sparse.maps import KernelMap

__all__ = ["BACKENDS", "check_channels", "convolve", "get_backend", "set_backend"]

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


def check_channels(x: Tensor, kernel: Tensor) -> None:
    """Refuse features [n, C] whose C is not the kernel's Cin, [..., Cin, Cout].

    Raises:
        UserError: they differ.
    """
    wanted = kernel.shape[-2]
    if x.dim() != 2 or x.shape[1] != wanted:
        raise UserError(
            f"the features are {list(x.shape)}, but the kernel takes {wanted} channels",
            where="sparse convolution",
            cure="Give the network the columns that it was built for (data.features)",
        )


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
        UserError: ``x`` has another number of channels than the kernel.
    """
    check_channels(x, kernel)  # compiled engines read as many values per row as the kernel says
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
