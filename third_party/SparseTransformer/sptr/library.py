"""The compiled CPU kernels, loaded with ctypes. Loading never compiles."""

from __future__ import annotations

import ctypes
import warnings
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from sptr.checks import check_array

__all__ = ["AttentionArgs", "library", "library_status", "pointer", "set_isa"]

_P, _L, _I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


_SIZES = ("heads", "dim", "padded", "length", "levels", "radial", "threads", "storage")
_RESULTS = ("out", "lse", "grad_out", "delta", "grad_q", "grad_k", "grad_v")


class AttentionArgs(ctypes.Structure):
    """Mirror of ``AttentionArgs`` in ``csrc/attention.h``; unset pointers are null."""

    _fields_ = (
        *((name, _P) for name in ("q", "k", "v", "order", "ptr")),
        ("windows", _L),
        *((name, _P) for name in ("positions", "table_q", "table_k", "table_v")),
        *((name, _I) for name in _SIZES),
        *((name, _P) for name in _RESULTS),
        *((name, _P) for name in ("grad_table_q", "grad_table_k", "grad_table_v")),
    )


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Load the library, once; None (with one warning) when it was not built."""
    # Imported here, so that `python -m sptr.build` does not find itself imported.
    from sptr.build import library_path

    path = library_path()
    if not path.is_file():
        warnings.warn(
            "sptr: the compiled kernels are missing, so the slower PyTorch path is used; run `python -m sptr.build`",
            stacklevel=2,
        )
        return None
    handle = ctypes.CDLL(str(path))
    handle.sptr_isa.restype = ctypes.c_char_p
    handle.sptr_set_isa.argtypes = [ctypes.c_char_p]
    handle.sptr_args_size.restype = _L
    for function in (handle.sptr_forward, handle.sptr_backward):
        function.restype, function.argtypes = None, [ctypes.POINTER(AttentionArgs)]
    if handle.sptr_args_size() != ctypes.sizeof(AttentionArgs):
        raise RuntimeError(
            f"{path}: the library does not match this package; delete it and run `python -m sptr.build`"
        )
    return handle


def pointer(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Return the address of a CPU tensor that is a C array of ``dtype`` and ``shape``.

    Raises:
        ValueError: it is not.
    """
    if tensor.device.type != "cpu":
        raise ValueError(f"sptr: {name} is on {tensor.device}, not on cpu")
    check_array(name, tensor, dtype, shape)
    return tensor.data_ptr()


def set_isa(name: str) -> bool:
    """Use instruction set ``generic``, ``avx2``, ``avx512`` or ``best``; False if absent here."""
    handle = library()
    return handle is not None and bool(handle.sptr_set_isa(name.encode()))


def library_status() -> tuple[bool, str]:
    """Say for a health check whether the kernels are usable, and which they are, in one line."""
    handle = library()
    if handle is None:
        return False, "not built; run `python -m sptr.build`"
    return True, f"{Path(handle._name).name}, {handle.sptr_isa().decode()}"
