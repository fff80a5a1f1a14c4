"""Compile ``csrc/`` into one shared library inside the package: ``python -m sptr.build`` or ``build()``.

Standard library only, so that ``setup.py`` can run it before torch is there. The library is named after a hash of its
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["build", "compiler", "library_path"]

SOURCES = Path(__file__).resolve().parent / "csrc"
TARGET = Path(__file__).resolve().parent / "_lib"
_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-fno-math-errno", "-ffp-contract=fast"]
_ISA_FLAGS = {  # translation unit -> its own instruction set; chosen among at run time
    "attention_avx2": ["-mavx2", "-mfma"],
    "attention_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"],
}


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else g++, clang++ or c++; None when there is none."""
    candidates = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def library_path() -> Path:
    """Where the library of the present sources belongs."""
    digest = hashlib.sha256(platform.machine().encode())
    for path in [*sorted(p for p in SOURCES.iterdir() if p.suffix in (".cpp", ".h", ".inc")), Path(__file__)]:
        digest.update(path.name.encode() + path.read_bytes())
    return TARGET / f"libsptr-{digest.hexdigest()[:16]}.so"


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
        raise RuntimeError("no C++ compiler was found (looked for $CXX, g++, clang++, c++); install one, e.g. g++")
    try:
        TARGET.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TARGET) as folder:
            os.replace(_compile(cxx, Path(folder)), target)
    except OSError as error:
        raise RuntimeError(f"{TARGET}: cannot write the compiled kernels ({error.strerror or error})") from error
    for stale in TARGET.glob("libsptr-*.so"):
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


def _isa_flags(unit: str) -> list[str]:
    return _ISA_FLAGS.get(unit, []) if platform.machine() in ("x86_64", "AMD64") else []


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"compiling failed: {' '.join(command)}\n{result.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
