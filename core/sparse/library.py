"""The compiled kernels, loaded with ctypes. Loading never compiles."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from core.machine import native_bf16
from core.sparse.build import library_path
from core.sparse.build_cuda import cuda_library_path
from core.sparse.checks import InvalidInput, describe

__all__ = [
    "array",
    "cuda_library",
    "has_cuda_kernels",
    "launch",
    "library",
    "library_status",
    "load",
    "loaded",
    "pointer",
    "set_isa",
]

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
    "lidistill_conv": (
        None,
        [_I, _P, _P, _P, _P, _P, _P, _P, _P, _L, _L, _I, _I, _I, _I, _I, _I, _I],
    ),
    "lidistill_weight_grad": (None, [_I, _P, _P, _P, _P, _P, _P, _I, _I, _I, _I]),
    "lidistill_gather": (None, [_I, _P, _P, _P, _P, _P, _L, _I, _I]),
}
_CUDA_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {  # last comes the stream
    "lidistill_cuda_error": (ctypes.c_char_p, [_I]),
    "lidistill_cuda_use": (_I, [_I]),
    "lidistill_cuda_neighbours": (_I, [_P, _P, _L, _P, _P, _L, _P, _I, _I, _P, _P]),
    "lidistill_cuda_transpose": (_I, [_P, _I, _L, _L, _P, _P]),
    "lidistill_cuda_masks": (_I, [_P, _I, _L, _P, _P]),
    "lidistill_cuda_pairs": (_I, [_P, _P, _I, _L, _P, _P, _P]),
    "lidistill_cuda_conv": (_I, [_I, _P, _P, _P, _P, _P, _P, _P, _P, _L, _I, _I, _I, _I, _I, _P]),
    "lidistill_cuda_weight_grad": (
        _I,
        [_I, _P, _P, _P, _P, _P, _P, _P, _L, _L, _I, _I, _I, _I, _I, _I, _P],
    ),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Load the library, once; None (with one warning) when it was not built."""
    path = library_path()
    if not path.is_file():
        logger.warning(
            "The compiled kernels are missing; the slower PyTorch path is used. `make setup` builds them."
        )
        return None
    handle = load(str(path), _SIGNATURES)
    if handle.lidistill_has_bf16() and not native_bf16():  # masked, to see what other machines do
        handle.lidistill_set_isa(b"avx512")
    return handle


def loaded() -> ctypes.CDLL:
    """Return the library to those who run only where it is there.

    Raises:
        RuntimeError: it was not built.
    """
    handle = library()
    if handle is None:
        raise RuntimeError("the compiled kernels are missing; `make setup` builds them")
    return handle


def load(path: str, signatures: dict[str, tuple[Any, list[Any]]]) -> ctypes.CDLL:
    """Open a library and declare its functions."""
    handle = ctypes.CDLL(path)
    for name, (result, arguments) in signatures.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    return handle


@lru_cache(maxsize=1)
def cuda_library() -> ctypes.CDLL | None:
    """Load the GPU kernels, once; None (with one warning) when they were not built. This needs no driver."""
    path = cuda_library_path()
    if not path.is_file():
        logger.warning(
            "GPU kernels are missing; the slower PyTorch path is used. `make setup` builds them with nvcc."
        )
        return None
    return load(str(path), _CUDA_SIGNATURES)


def _loaded_cuda() -> ctypes.CDLL:
    handle = cuda_library()
    if handle is None:
        raise RuntimeError("the GPU kernels are missing; `make setup` builds them with nvcc")
    return handle


def has_cuda_kernels(device: torch.device) -> bool:
    """Tell whether the compiled kernels run on ``device``: an Ampere GPU or a later one, and they were built."""
    return device.type == "cuda" and _is_ampere(device) and cuda_library() is not None


@lru_cache(maxsize=64)
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def _stream(device: torch.device) -> Iterator[int]:
    with torch.cuda.device(device):
        _loaded_cuda().lidistill_cuda_use(device.index)  # the library brings its own CUDA runtime
        yield torch.cuda.current_stream(device).cuda_stream


def launch(name: str, device: torch.device, *arguments: Tensor | int | None) -> None:
    """Call a function of the GPU library in the current stream of ``device``; tensors go as their addresses.

    Args:
        arguments: what the function takes before the stream; each tensor through :func:`array`.

    Raises:
        InvalidInput: a tensor lies elsewhere. RuntimeError: CUDA refused the launch, or an earlier kernel failed.
    """
    handle = _loaded_cuda()
    raw: list[int | None] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            if argument.device != device:
                raise InvalidInput(f"a tensor is on {argument.device}, not on {device}", where=name)
            argument = argument.data_ptr()
        raw.append(argument)
    with _stream(device) as stream:
        code = getattr(handle, name)(*raw, stream)
    if code:
        reason = handle.lidistill_cuda_error(code).decode()
        raise RuntimeError(f"{name} failed: {reason} (CUDA error {code})")


def array(tensor: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    """Return a tensor that compiled code may take for a C array of ``dtype`` and ``shape``.

    Raises:
        InvalidInput: it has another dtype or shape, or gaps between its elements.
    """
    if tensor.dtype == dtype and tensor.shape == shape and tensor.is_contiguous():
        return tensor
    gaps = "" if tensor.is_contiguous() else " with gaps"
    expected = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    raise InvalidInput(
        f"a tensor is {describe(tensor)}{gaps}; expected {expected}", where="compiled kernels"
    )


def pointer(tensor: Tensor | None, dtype: torch.dtype, *shape: int) -> int | None:
    """Return the address of a CPU tensor that is a C array of ``dtype`` and ``shape``, None for None.

    Raises:
        InvalidInput: it is not, see :func:`array`.
    """
    if tensor is None:
        return None
    if tensor.device.type != "cpu":
        raise InvalidInput(f"a tensor is on {tensor.device}, not on cpu", where="compiled kernels")
    return array(tensor, dtype, *shape).data_ptr()


def set_isa(name: str) -> bool:
    """Use instruction set ``generic``, ``avx2``, ``avx512``, ``avx512bf16`` or ``best``; False if absent here."""
    handle = library()
    return handle is not None and bool(handle.lidistill_set_isa(name.encode()))


def library_status() -> tuple[bool, str]:
    """Say for ``make doctor`` whether the kernels are usable, and which they are, in one line."""
    handle = library()
    if handle is None:
        return False, "not built; run `make setup`"
    bf16 = "native" if handle.lidistill_has_bf16() else "through fp32"
    isa = handle.lidistill_isa().decode()
    threads = torch.get_num_threads()
    return True, f"{library_path().name}, {isa}, bf16 {bf16}, {threads} threads"
