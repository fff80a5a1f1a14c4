"""The CUDA kernels on the host: compiled by a C++ compiler against ``cuda_emulation/``, driven by ``sptr.cuda``."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

EMULATION = Path(__file__).resolve().parent / "cuda_emulation"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-mf16c", "-Wall", "-Wno-unknown-pragmas", f"-I{EMULATION}"]


def compile_emulated(folder: Path) -> Path:
    """The shared library of every ``.cu`` file, in ``folder``."""
    from sptr.build import CUDA_SOURCES, compiler

    def run(*command: str) -> None:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not result.returncode, result.stderr

    sources = sorted(CUDA_SOURCES.glob("*.cu"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        for source, out in zip(sources, objects):
            pool.submit(run, compiler(), *FLAGS, "-x", "c++", "-c", str(source), "-o", str(out))
    library = folder / "libsptr_emulated.so"
    run(compiler(), "-shared", *map(str, objects), "-o", str(library))
    return library


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs) -> Tensor:
        from sptr import cuda

        out, lse = cuda.forward(*inputs)
        *tensors, ctx.levels, ctx.radial = inputs
        ctx.save_for_backward(*tensors, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        from sptr import cuda

        *tensors, out, lse = ctx.saved_tensors
        delta = (grad.float() * out.float()).sum(-1)
        return (*cuda.backward(*tensors, ctx.levels, ctx.radial, lse, delta, grad), *[None] * 5)


def emulated_window_attention(query, key, value, index, *tables) -> Tensor:
    """:func:`sptr.fused_window_attention` on the emulated device; absent tables are zeros."""
    absent = torch.zeros(index.table_length, 3, *query.shape[1:])
    tables = [absent if table is None else table for table in tables or (None,) * 3]
    return _Attention.apply(
        query,
        key,
        value,
        *tables,
        index.order,
        index.ptr,
        index.positions,
        index.levels,
        index.kind == "radial",
    )
