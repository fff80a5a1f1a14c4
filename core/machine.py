"""What this machine has to offer."""

from __future__ import annotations

import os
import platform
import stat
import tempfile
from datetime import timedelta
from pathlib import Path

from core.errors import UserError

__all__ = [
    "NO_BF16",
    "TIMEOUT",
    "native_bf16",
    "patience",
    "processor_name",
    "provide_caches",
    "usable_cores",
    "user_cache",
]

TIMEOUT = (
    "LIDISTILL_TIMEOUT_MINUTES"  # environment variable: how long processes wait for each other
)
_MINUTES = "30"

NO_BF16 = (
    "LIDISTILL_NO_BF16"  # environment variable: 1 = compute as if there were no bf16 instructions
)
CPUINFO = Path("/proc/cpuinfo")
INSTRUCTION_SETS = {  # by their flag in CPUINFO, best first
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel and AMD, Intel and AMD, Arm


def processor_name() -> str:
    """Name what computes: the GPU where torch sees one, else the CPU, its best instruction set and usable cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = _cpu_facts()
    name = facts.get("model name", platform.machine())
    flags = set(facts.get("flags", "").split())
    best = next((title for flag, title in INSTRUCTION_SETS.items() if flag in flags), None)
    if best is not None:
        name = f"{name} with {best}"
    return f"{name}, {usable_cores()} cores"


def native_bf16() -> bool:
    """Tell whether the processor multiplies bf16 by instructions of its own, which the variable NO_BF16 masks.

    Elsewhere bf16 goes through fp32 and takes longer than fp32 itself.
    """
    if os.environ.get(NO_BF16, "0") not in ("", "0"):
        return False
    facts = _cpu_facts()
    flags = facts.get("flags", facts.get("Features", ""))  # x86, Arm
    return not BF16_FLAGS.isdisjoint(flags.split())


def _cpu_facts() -> dict[str, str]:
    """The lines of the first processor in CPUINFO; empty where the system has no such file."""
    if not CPUINFO.is_file():
        return {}
    facts: dict[str, str] = {}
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def usable_cores(most: int | None = None) -> int:
    """Count the cores this process may use: its affinity mask, or every core where there is none.

    Args:
        most: upper bound of the answer; None for no bound.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return cores if most is None else min(cores, most)


def patience() -> timedelta:
    """Tell how long a process waits for another one that does not answer, which the variable TIMEOUT says.

    Raises:
        UserError: it is no positive number.
    """
    text = os.environ.get(TIMEOUT, _MINUTES)
    try:
        span = timedelta(minutes=float(text))
    except (ValueError, OverflowError):
        span = timedelta(0)
    if span <= timedelta(0):
        raise UserError(
            f"expected minutes, a number above 0, got '{text}'",
            where=f"environment variable {TIMEOUT}",
            cure="Unset it (30), or set it to a number",
        )
    return span


def user_cache() -> Path:
    """Name the folder of this user's caches, as the XDG standard has it; it may not exist or be writable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def provide_caches() -> None:
    """Give libraries a place for what they compile or download, where the user has none.

    Containers run under numbers without a home, on checkouts that may not be written to. numba refuses to start there;
    it, torch, timm and matplotlib ask these variables. Must be called before they are imported.
    """
    if _has_cache():
        return
    folder = _temporary_cache()
    os.environ["XDG_CACHE_HOME"] = str(folder)
    if not os.access(Path(__file__).parent, os.W_OK):  # else numba keeps its code beside ours
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def _has_cache() -> bool:
    """Whether the user's cache folder can be written to; it is made."""
    try:
        folder = user_cache()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no HOME, and no account to look it up in
        return False
    return folder.is_absolute() and os.access(folder, os.W_OK | os.X_OK)


def _temporary_cache() -> Path:
    """A folder of this user alone that later commands find again; a new one where somebody else has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"lidistill-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lidistill-"))
    owned = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not owned or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="lidistill-"))
    return folder
