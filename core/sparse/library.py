"""The compiled kernels, loaded with ctypes. Loading never compiles."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from core.sparse.build import library_path

__all__ = ["library", "library_status", "pointer", "set_isa"]

_P, _L, _I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "lidistill_tile": (_I, []),
    "lidistill_isa": (ctypes.c_char_p, []),
    "lidistill_has_bf16": (_I, []),
    "lidistill_set_isa": (_I, [ctypes.c_char_p]),
    "lidistill_argsort": (None, [_P, _L, _P]),
    "lidistill_neighbours": (None, [_P, _P, _L, _P, _P, _L, _P, _I, _I, _P, _I]),
    "lidistill_count_tiles": (_L, [_P, _I, _L, _P, _I]),
    "lidistill_fill_tiles": (None, [_P, _I, _L, _P, _P, _P, _I]),
    "lidistill_fill_offsets": (None, [_P, _I, _L, _P, _P, _P, _I]),
    "lidistill_transpose": (None, [_P, _I, _L, _L, _P, _I]),
    "lidistill_conv": (None, [_I, _P, _P, _P, _P, _P, _P, _P, _L, _L, _I, _I, _I, _I, _I, _I]),
    "lidistill_weight_grad": (None, [_I, _P, _P, _P, _P, _P, _P, _I, _I, _I, _I]),
    "lidistill_gather": (None, [_P, _P, _P, _P, _P, _L, _I, _I]),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The loaded library, or None (with one warning) when it was not built."""
    path = library_path()
    if not path.is_file():
        logger.warning("The compiled kernels are missing; the slower PyTorch path is used. `make setup` builds them.")
        return None
    handle = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    return handle


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a contiguous CPU tensor's data, None for None."""
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


def set_isa(name: str) -> bool:
    """Use instruction set ``generic``, ``avx2``, ``avx512``, ``avx512bf16`` or ``best``; False if absent here."""
    handle = library()
    return handle is not None and bool(handle.lidistill_set_isa(name.encode()))


def library_status() -> tuple[bool, str]:
    """(usable, one line) for ``make doctor``."""
    handle = library()
    if handle is None:
        return False, "not built; run `make setup`"
    bf16 = "native" if handle.lidistill_has_bf16() else "through fp32"
    return (
        True,
        f"{library_path().name}, {handle.lidistill_isa().decode()}, bf16 {bf16}, {torch.get_num_threads()} threads",
    )
