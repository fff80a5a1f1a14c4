"""Compile ``csrc/`` into shared libraries inside the package: ``python -m sptr.build``, or ``build()`` for the CPU and
``build_cuda()`` for CUDA devices.

Standard library only, so that ``setup.py`` can run it before torch is there. A library is named after a hash of its
sources, so a stale one is never loaded. Nothing compiles at import.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = [
    "build",
    "build_all",
    "build_cuda",
    "compiler",
    "cuda_compiler",
    "cuda_library_path",
    "library_path",
]

SOURCES = Path(__file__).resolve().parent / "csrc"
TARGET = Path(__file__).resolve().parent / "_lib"
_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-fno-math-errno", "-ffp-contract=fast"]
_ISA_FLAGS = {  # translation unit -> its own instruction set; chosen among at run time
    "attention_avx2": ["-mavx2", "-mfma"],
    "attention_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"],
}
CUDA_SOURCES = SOURCES / "cuda"
_CUDA_FLAGS = [
    "-O3", "-std=c++17", "-Xcompiler", "-fPIC", "-cudart", "static",  # no tie to the CUDA version of torch
    "-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90,code=sm_90",
    "-gencode", "arch=compute_90,code=compute_90",  # for devices to come
]  # fmt: skip


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else g++, clang++ or c++; None when there is none."""
    candidates = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def cuda_compiler() -> str | None:
    """nvcc: ``$NVCC``, else from the path, else of ``$CUDA_HOME`` or /usr/local/cuda; None when there is none."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    candidates = [
        os.environ.get("NVCC"),
        "nvcc",
        *(str(Path(home, "bin", "nvcc")) for home in homes if home),
    ]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def library_path() -> Path:
    """Where the library of the present sources belongs."""
    return TARGET / f"libsptr-{_digest(SOURCES, ('.cpp', '.h', '.inc'))}.so"


def cuda_library_path() -> Path:
    """Where the library of the present CUDA sources belongs."""
    return TARGET / f"libsptrcuda-{_digest(CUDA_SOURCES, ('.cu', '.cuh', '.h'))}.so"


def _digest(folder: Path, suffixes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(platform.machine().encode())
    for path in [*sorted(p for p in folder.iterdir() if p.suffix in suffixes), Path(__file__)]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build() -> Path:
    """Compile unless this very library exists; the file appears whole or not at all.

    Raises:
        RuntimeError: no compiler, the compiler fails (its messages are quoted), or the folder cannot be written.
    """
    target = library_path()
    if target.is_file():
        return target
    cxx = compiler()
    if cxx is None:
        raise RuntimeError(
            "no C++ compiler was found (looked for $CXX, g++, clang++, c++); install one, e.g. g++"
        )
    return _install(target, lambda folder: _compile(cxx, folder))


def build_cuda() -> Path | None:
    """Compile the CUDA kernels for compute capability 8.0 and 9.0, and PTX for later ones; None without nvcc.

    Raises:
        RuntimeError: nvcc fails (its messages are quoted), or the folder cannot be written.
    """
    target = cuda_library_path()
    if target.is_file():
        return target
    nvcc = cuda_compiler()
    return None if nvcc is None else _install(target, lambda folder: _compile_cuda(nvcc, folder))


def build_all() -> list[Path]:
    """The CPU library, and the CUDA library where nvcc exists; a failing nvcc is reported and no obstacle.

    Raises:
        RuntimeError: see :func:`build`.
    """
    libraries = [build()]
    try:
        cuda = build_cuda()
    except RuntimeError as error:
        sys.stderr.write(f"warning: sptr is built without its CUDA kernels: {error}\n")
        return libraries
    return libraries if cuda is None else [*libraries, cuda]


def _install(target: Path, make: Callable[[Path], Path]) -> Path:
    try:
        TARGET.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TARGET) as folder:
            os.replace(make(Path(folder)), target)
    except OSError as error:
        raise RuntimeError(
            f"{TARGET}: cannot write the compiled kernels ({error.strerror or error})"
        ) from error
    for stale in TARGET.glob(target.name.split("-")[0] + "-*.so"):
        if stale != target:
            stale.unlink(missing_ok=True)
    return target


def _compile(cxx: str, folder: Path) -> Path:
    sources = sorted(SOURCES.glob("*.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    commands = [
        [cxx, *_FLAGS, *_isa_flags(source.stem), "-c", str(source), "-o", str(output)]
        for source, output in zip(sources, objects)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    library = folder / "libsptr.so"
    _run([cxx, "-shared", "-pthread", *map(str, objects), "-o", str(library)])
    return library


def _compile_cuda(nvcc: str, folder: Path) -> Path:
    sources = sorted(CUDA_SOURCES.glob("*.cu"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    commands = [
        [nvcc, *_CUDA_FLAGS, "-c", str(source), "-o", str(output)]
        for source, output in zip(sources, objects)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    library = folder / "libsptrcuda.so"
    _run([nvcc, *_CUDA_FLAGS, "-shared", *map(str, objects), "-o", str(library)])
    return library


def _isa_flags(unit: str) -> list[str]:
    return _ISA_FLAGS.get(unit, []) if platform.machine() in ("x86_64", "AMD64") else []


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(
            f"compiling failed: {' '.join(command)}\n{result.stderr.strip()[-2000:]}"
        )


if __name__ == "__main__":
    sys.stdout.writelines(f"{library}\n" for library in build_all())
