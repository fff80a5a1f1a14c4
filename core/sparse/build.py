"""Compile ``csrc/`` into one shared library, and ``csrc/cuda/`` into another: ``python -m core.sparse.build`` (part of
``make setup``).

A library is named after a hash of its sources, so a stale build is never loaded. Nothing compiles at import.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loguru import logger

from core.errors import UserError
from core.io import atomic_path
from core.sparse.build_cuda import build_cuda

__all__ = ["build", "compiler", "library_path"]

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
TARGET = Path(__file__).resolve().parents[1] / "_lib"
_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-fno-math-errno"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
_ISA_FLAGS = {  # translation unit -> its own instruction set; chosen among at run time
    "conv_avx2": ["-mavx2", "-mfma"],
    "conv_avx512": _AVX512,
    "conv_avx512bf16": [*_AVX512, "-mavx512bf16"],
}


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else g++, clang++ or c++; None when there is none."""
    candidates = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def library_path() -> Path:
    """Where the library of the present sources belongs."""
    digest = hashlib.sha256(platform.machine().encode())
    for path in sorted(
        [*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"), *SOURCES.glob("*.inc"), Path(__file__)]
    ):
        digest.update(path.name.encode() + path.read_bytes())
    return TARGET / f"liblidistill-{digest.hexdigest()[:16]}.so"


def build() -> Path:
    """Compile what is not there yet. Trouble with nvcc is reported, and leaves the CPU's kernels alone.

    Returns:
        Path of the CPU's library.

    Raises:
        UserError: no compiler, or the compiler fails (its messages are quoted).
    """
    target = _build_cpu()
    try:
        gpu = build_cuda(SOURCES / "cuda", TARGET)
    except UserError as error:
        logger.warning("{}", error)
    else:
        if gpu is not None:
            logger.info("GPU kernels: {}", os.path.relpath(gpu))
    return target


def _build_cpu() -> Path:
    target = library_path()
    if target.is_file():
        return target
    cxx = compiler()
    if cxx is None:
        raise UserError(
            "no C++ compiler was found (looked for $CXX, g++, clang++, c++)",
            where="make setup",
            cure="Install one (for example g++), or go on without: the slower PyTorch path is used",
        )
    sources = sorted(SOURCES.glob("*.cpp"))
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        commands = [
            [cxx, *_FLAGS, *_isa_flags(source.stem), "-c", str(source), "-o", str(target_object)]
            for source, target_object in zip(sources, objects)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        with atomic_path(target) as temporary:
            _run([cxx, "-shared", "-pthread", *map(str, objects), "-o", str(temporary)])
    for stale in TARGET.glob("liblidistill-*.so"):
        if stale != target:
            stale.unlink()
    return target


def _isa_flags(unit: str) -> list[str]:
    return _ISA_FLAGS.get(unit, []) if platform.machine() in ("x86_64", "AMD64") else []


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(
            f"compiling failed: {' '.join(command)}\n{result.stderr.strip()[-2000:]}",
            where="make setup",
            cure="Try another compiler with CXX=clang++ make setup",
        )


if __name__ == "__main__":
    logger.info("kernels: {}", os.path.relpath(build()))
