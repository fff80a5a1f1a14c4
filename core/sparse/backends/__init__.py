"""Engines that run a sparse convolution over a kernel map, behind one function.

``native`` (compiled, CPU) falls to ``torch`` for other devices, for float64, and where nothing was compiled; ``spconv``
is optional and lazily imported. Choose with ``LIDISTILL_SPARSE_BACKEND`` or :func:`set_backend`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from core.errors import UserError
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
    """Name of the engine in force."""
    name = _chosen or os.environ.get("LIDISTILL_SPARSE_BACKEND", "native")
    if name not in BACKENDS:
        set_backend(name)  # raises
    return name


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap, backend: str | None = None) -> Tensor:
    """``y[o] = bias + sum_k x[table[k, o]] @ kernel[k]``.

    Args:
        x: [n_in, Cin]. kernel: [K, Cin, Cout], same dtype. bias: [Cout] or None.
        kmap: the neighbours. backend: overrides the choice in force.

    Returns:
        [n_out, Cout], dtype of x.
    """
    function: Callable[..., Tensor] = import_module(BACKENDS[backend or get_backend()]).convolve
    return function(x, kernel, bias, kmap)
