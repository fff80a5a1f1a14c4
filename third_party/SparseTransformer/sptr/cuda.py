"""The fused operator on CUDA devices: ``csrc/cuda/`` loaded with ctypes, once a CUDA tensor arrives.

Nothing here waits for the device. Results for q, k and v never depend on the order in which blocks run; table gradients
are added with atomics, or in a fixed order when ``torch.use_deterministic_algorithms`` asks for it.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from sptr.checks import check_array, check_gradient, check_inputs
from sptr.inputs import GradientTypes, Inputs, InputTypes, c_arrays, padded_tables

__all__ = ["cuda_library", "cuda_library_status", "serves"]

MIN_CAPABILITY = (8, 0)  # what build.py compiles for
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PADDED = (16, 32, 64)  # head dimensions the kernels are instantiated for
_PARTIAL_BYTES = 2**26  # table gradients per tile, held at a time in deterministic mode
_P, _L, _I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_OPERATORS = torch.library.Library("sptr", "IMPL")


_POINTERS = ("q", "k", "v", "order", "ptr", "positions", "table_q", "table_k", "table_v")
_SIZES = ("heads", "dim", "padded", "length", "levels", "radial", "type", "device")
_RESULTS = ("out", "lse", "grad_out", "delta", "grad_q", "grad_k", "grad_v")
_TABLE_GRADIENTS = ("grad_table_q", "grad_table_k", "grad_table_v")


class CudaArgs(ctypes.Structure):
    """Mirror of ``Attention`` in ``csrc/cuda/attention.h``; unset pointers are null."""

    _fields_ = (
        *((name, _P) for name in _POINTERS),
        *((name, _L) for name in ("tokens", "windows")),
        *((name, _I) for name in _SIZES),
        *((name, _P) for name in _RESULTS),
        *((name, _P) for name in _TABLE_GRADIENTS),
        *((name, _I) for name in ("partial", "block_forward", "block_query", "block_key")),
        *((name, _L) for name in ("first_tile", "tiles")),
    )


@lru_cache(maxsize=1)
def cuda_library() -> ctypes.CDLL | None:
    """Load the library, once; None (with one warning) when it was not built."""
    from sptr.build import cuda_library_path

    path = cuda_library_path()
    if not path.is_file():
        warnings.warn(
            "sptr: the compiled CUDA kernels are missing, so the slower PyTorch path is used; "
            "run `python -m sptr.build` where nvcc is installed",
            stacklevel=2,
        )
        return None
    return open_library(path)


def open_library(path: Path) -> ctypes.CDLL:
    """Load and check a library of the CUDA kernels; needs neither a GPU nor a driver."""
    handle = ctypes.CDLL(str(path))
    handle.sptr_cuda_args_size.restype = _L
    handle.sptr_cuda_error.restype = ctypes.c_char_p
    handle.sptr_cuda_error.argtypes = [ctypes.c_int]
    handle.sptr_cuda_plan.argtypes = [ctypes.POINTER(CudaArgs)]
    for name in ("forward", "backward_queries", "backward_keys"):
        getattr(handle, f"sptr_cuda_{name}").argtypes = [ctypes.POINTER(CudaArgs), _P]
    if handle.sptr_cuda_args_size() != ctypes.sizeof(CudaArgs):
        raise RuntimeError(
            f"{path}: the library does not match this package; delete it and run `python -m sptr.build`"
        )
    return handle


def cuda_library_status() -> tuple[bool, str]:
    """Say for a health check whether the kernels are there, in one line; does not ask for a GPU."""
    from sptr.build import cuda_library_path

    path = cuda_library_path()
    if not path.is_file():
        return False, "not built; run `python -m sptr.build` where nvcc is installed"
    return True, path.name


def serves(query: Tensor, length: int, levels: int, radial: bool) -> bool:
    """Tell whether the kernels run on this CUDA tensor [N, h, d], with tables of ``length`` rows."""
    if query.dtype not in _TYPES:
        return False
    if torch.compiler.is_compiling():
        return True  # no library can be asked while tracing; the launch says what is wrong
    if torch.cuda.get_device_capability(query.device) < MIN_CAPABILITY:
        return False
    if cuda_library() is None:
        return False
    return _fits(query.device, query.shape[2], length, levels, radial)


@lru_cache(maxsize=256)
def _fits(device: torch.device, dim: int, length: int, levels: int, radial: bool) -> bool:
    """Whether the shared memory of the device holds the look-ups of a tile."""
    args = CudaArgs(
        tokens=1,
        heads=1,
        dim=dim,
        padded=_pad(dim),
        length=length,
        levels=levels,
        radial=int(radial),
        device=_index(device),
    )
    _call("plan", args)
    if not _planned(args):
        warnings.warn(
            f"sptr: tables of {length} rows need more shared memory than {device} has; the slower PyTorch path is used",
            stacklevel=2,
        )
        return False
    return True


def _planned(args: CudaArgs) -> bool:
    return min(args.block_forward, args.block_query, args.block_key) > 0


def _pad(dim: int) -> int:
    return next(padded for padded in _PADDED if padded >= dim)


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


def _stream(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.current_stream(device).cuda_stream


def _call(name: str, args: CudaArgs, *stream: int) -> None:
    handle = cuda_library()
    if handle is None:
        raise RuntimeError(
            "sptr: the CUDA kernels are missing; run `python -m sptr.build` where nvcc is installed"
        )
    function = getattr(handle, f"sptr_cuda_{name}")
    error = function(ctypes.byref(args), *stream)
    if error:
        reason = handle.sptr_cuda_error(error).decode()
        raise RuntimeError(f"sptr: CUDA error {error} in {name}: {reason}")


class _Launch:
    """The C structure with its tile sizes, and the contiguous tensors it points into."""

    def __init__(self, inputs: Inputs) -> None:
        q, ptr = inputs.q, inputs.ptr
        check_inputs(inputs)
        if len(q) and len(ptr) < 2:
            raise ValueError(f"sptr: {len(q)} tokens and no window")
        padded = _pad(inputs.dim)
        tensors = padded_tables(inputs, padded)
        tensors |= {"q": q, "k": inputs.k, "v": inputs.v}
        tensors |= {"order": inputs.order.long(), "ptr": ptr.long()}
        tensors["positions"] = inputs.positions.float()
        self.device = q.device
        self.arrays = c_arrays(inputs, padded)
        self.kept: list[Tensor] = []
        self.struct = CudaArgs(
            tokens=len(q),
            windows=len(ptr) - 1,
            heads=inputs.heads,
            dim=inputs.dim,
            padded=padded,
            length=inputs.length,
            levels=inputs.levels,
            radial=int(inputs.radial),
            type=_TYPES[q.dtype],
            device=_index(q.device),
        )
        self.point(tensors)
        _call("plan", self.struct)
        if not _planned(self.struct):
            raise ValueError(
                f"sptr: tables of {inputs.length} rows need more shared memory than {q.device} has"
            )

    def point(self, tensors: Mapping[str, Tensor]) -> None:
        """Point at tensors, made contiguous."""
        for name, tensor in tensors.items():
            tensor = tensor.contiguous()
            check_array(name, tensor, *self.arrays[name])
            self.kept.append(tensor)
            setattr(self.struct, name, tensor.data_ptr())

    def tiles(self, block: int) -> int:
        """Tiles of ``block`` owned tokens."""
        return -(-self.struct.tokens // block)

    def run(self, name: str, first: int, tiles: int) -> None:
        """Launch tiles ``first`` to ``first + tiles``, on the current stream."""
        self.struct.first_tile, self.struct.tiles = first, tiles
        _call(name, self.struct, _stream(self.device))

    def run_for_tables(self, name: str, block: int, *tables: str) -> list[Tensor]:
        """Launch all tiles; the gradients [h, 3, L, padded] fp32 of these tables."""
        s = self.struct
        tiles = self.tiles(block)
        sums = [self._empty_table().zero_() for _ in tables]
        if not torch.are_deterministic_algorithms_enabled():
            s.partial = 0
            self.point(dict(zip(tables, sums)))
            self.run(name, 0, tiles)
            return sums
        s.partial = 1
        step = max(1, _PARTIAL_BYTES // (4 * sums[0].numel()))
        for first in range(0, tiles, step):
            count = min(step, tiles - first)
            parts = [self._empty_table(count) for _ in tables]
            for table, part in zip(tables, parts):
                setattr(s, table, part.data_ptr())
            self.run(name, first, count)
            for total, part in zip(sums, parts):
                total += part.sum(0)
        return sums

    def _empty_table(self, *leading: int) -> Tensor:
        """Room for the gradient of a table, fp32 [*leading, h, 3, L, padded]."""
        s = self.struct
        shape = (*leading, s.heads, 3, s.length, s.padded)
        return torch.empty(shape, dtype=torch.float32, device=self.device)


@torch.library.impl(_OPERATORS, "window_attention", "CUDA")
def forward(*values: *InputTypes) -> tuple[Tensor, Tensor]:
    """Attend: the output [N, h, d], and the log of the softmax denominators fp32 [N, h]."""
    inputs = Inputs(*values)
    q = inputs.q
    with torch.cuda.device_of(q):
        launch = _Launch(inputs)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        launch.point({"out": out, "lse": lse})
        launch.run("forward", 0, launch.tiles(launch.struct.block_forward))
    return out, lse


@torch.library.impl(_OPERATORS, "window_attention_backward", "CUDA")
def backward(*values: *GradientTypes) -> tuple[Tensor, ...]:
    """Differentiate: gradients of q, k, v and the three tables, each in the type of its tensor."""
    inputs, (lse, delta, grad) = Inputs(*values[:11]), values[11:]
    check_gradient(inputs, lse, delta, grad)
    features = (inputs.q, inputs.k, inputs.v)
    with torch.cuda.device_of(inputs.q):
        launch = _Launch(inputs)
        grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in features]
        launch.point(
            {"lse": lse.float(), "delta": delta.float(), "grad_out": grad.to(inputs.q.dtype)}
        )
        launch.point(dict(zip(("grad_q", "grad_k", "grad_v"), grads)))
        s = launch.struct
        grad_q, grad_v = launch.run_for_tables(
            "backward_queries", s.block_query, "grad_table_q", "grad_table_v"
        )
        (grad_k,) = launch.run_for_tables("backward_keys", s.block_key, "grad_table_k")
    tables = (inputs.table_q, inputs.table_k, inputs.table_v)
    for padded, table in zip((grad_q, grad_k, grad_v), tables):
        as_given = padded[..., : inputs.dim].permute(2, 1, 0, 3).contiguous()
        grads.append(as_given.to(table.dtype))
    return tuple(grads)
