"""Run the kernels' tests with kernels under the address and undefined-behaviour sanitizers: ``make sanitize``.

The compiler is wrapped, so that the libraries, and the emulated CUDA kernels that tests compile, are all instrumented.
pytest then runs with the sanitizers' runtimes loaded first, and with this file as its plugin, which leads both packages
to the instrumented libraries. A finding ends the process at once, with its report and a code other than 0.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "sanitized"
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined"
TESTS = ("tests/sparse", "tests/sptr", "tests/fast", "-k", "not nvcc and not sync_bn")
sys.path[:0] = [str(ROOT), str(ROOT / "third_party" / "SparseTransformer")]


def _use_instrumented() -> None:
    """Lead both packages to the instrumented libraries."""
    import sptr.build

    from core.sparse import build

    build.TARGET = FOLDER / "sparse"
    sptr.build.TARGET = FOLDER / "sptr"


def pytest_configure() -> None:
    """Of the plugin: nothing runs with other libraries than the instrumented ones."""
    import sptr.build

    from core.sparse import build

    _use_instrumented()
    for path in (build.library_path(), sptr.build.library_path()):
        if b"__asan_" not in path.read_bytes():
            pytest.exit(f"{path} is not instrumented", 1)


def _runtimes(compiler: str) -> list[str]:
    """What has to be loaded before Python."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        answer = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        path = Path(answer.stdout.strip())
        if not path.is_absolute():
            raise SystemExit(f"{compiler} has no {name}; install it, or set CXX=g++")
        found.append(str(path))
    return found


def _wrapped(compiler: str) -> Path:
    """The compiler with the sanitizers' flags behind all others; itself it runs without their runtimes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wrapper = FOLDER / "c++"
    wrapper.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec "{compiler}" "$@" {FLAGS}\n')
    wrapper.chmod(0o755)
    return wrapper


def main() -> int:
    """Build, and run the tests."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Further arguments go to pytest.")
    _, further = parser.parse_known_args()
    import sptr.build

    from core.sparse import build

    compiler = build.compiler()
    if compiler is None:
        raise SystemExit("no C++ compiler was found; install g++")
    runtimes = _runtimes(compiler)
    os.environ["CXX"] = str(_wrapped(compiler))
    _use_instrumented()
    with mock.patch.object(build, "build_cuda", return_value=None):
        build.build()
    sptr.build.build()
    options = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    environment = (
        options
        | os.environ
        | {
            "LD_PRELOAD": ":".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little at its end
            "PYTHONPATH": str(ROOT / "tests"),
        }
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "sanitize", *TESTS, *further]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
