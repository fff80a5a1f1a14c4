"""Compile ``csrc/cuda/`` with nvcc into a library of its own; part of :mod:`core.sparse.build`, skipped without nvcc.

It holds machine code for Ampere and Hopper and PTX for later GPUs, brings its own CUDA runtime and knows nothing of
PyTorch, so one build serves any PyTorch and any CUDA version that the driver runs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.errors import UserError
from core.io import atomic_path

__all__ = ["build_cuda", "cuda_library_path", "nvcc"]

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
TARGET = Path(__file__).resolve().parents[1] / "_lib"
_FLAGS = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-Wall", "-cudart", "static"]
_TARGETS = [
    f"-gencode=arch=compute_{a},code={c}"
    for a, c in (("80", "sm_80"), ("90", "sm_90"), ("90", "compute_90"))
]


def nvcc() -> str | None:
    """CUDA's compiler: ``$NVCC``, ``nvcc`` in PATH, that of ``$CUDA_HOME`` or of the package nvidia-cuda-nvcc."""
    home, packages = os.environ.get("CUDA_HOME"), Path(sysconfig.get_path("purelib"))
    candidates = [os.environ.get("NVCC"), "nvcc", home and str(Path(home) / "bin" / "nvcc")]
    candidates += map(str, sorted(packages.glob("nvidia/*/bin/nvcc")))
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def cuda_library_path(folder: Path = SOURCES, into: Path = TARGET) -> Path:
    """Where the library of the sources in ``folder`` belongs."""
    digest = hashlib.sha256(platform.machine().encode())
    for path in [*sorted(path for path in folder.glob("*") if path.is_file()), Path(__file__)]:
        digest.update(path.name.encode() + path.read_bytes())
    return into / f"liblidistill_cuda-{digest.hexdigest()[:16]}.so"


def build_cuda(folder: Path = SOURCES, into: Path = TARGET) -> Path | None:
    """Compile unless this very library exists; None where there is no nvcc, or nothing to compile.

    Raises:
        UserError: nvcc fails (its messages are quoted).
    """
    sources, target = sorted(folder.glob("*.cu")), cuda_library_path(folder, into)
    if target.is_file():
        return target
    compiler = nvcc()
    if compiler is None or not sources:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        objects = [Path(scratch) / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [
                [compiler, *_FLAGS, *_TARGETS, "-c", str(source), "-o", str(path)]
                for source, path in zip(sources, objects)
            ]
            list(pool.map(_run, commands))
        folders = f"-L{Path(compiler).resolve().parents[1] / 'lib'}"  # where the package's nvcc does not look by itself
        link = [compiler, *_FLAGS, *_TARGETS, "-cudadevrt", "none", folders, "-shared"]
        with atomic_path(target) as temporary:
            _run([*link, *map(str, objects), "-o", str(temporary)])
    for stale in into.glob("liblidistill_cuda-*.so"):
        if stale != target:
            stale.unlink()
    return target


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(
            f"compiling the GPU kernels failed: {' '.join(command)}\n{(result.stdout + result.stderr).strip()[-2000:]}",
            where="make setup",
            cure="Use CUDA 12 or 13 (NVCC=/path/to/nvcc make setup); without these kernels a GPU runs the slower "
            "PyTorch path, and nothing changes for the CPU",
        )
