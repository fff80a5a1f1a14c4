"""Who made a figure: the command line, the code's commit, the processor and the day."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from pathlib import Path

from core.engine.run.run_dir import git_state
from core.machine import usable_cores

__all__ = ["Provenance", "commit_name", "processor_name", "provenance"]

CPUINFO = Path("/proc/cpuinfo")
# best first: what a time depends on beside the processor's name
INSTRUCTION_SETS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
Provenance = dict[str, str]


def commit_name() -> str:
    """The code's commit, with "local changes" where there are any; empty outside a git checkout."""
    state = git_state()
    if not state:
        return ""
    if state["dirty"]:
        return f"{state['commit']} with local changes"
    return str(state["commit"])


def processor_name() -> str:
    """The GPU where torch uses one, else the CPU with its best instruction set and the number of usable cores."""
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


def _cpu_facts() -> dict[str, str]:
    """The lines of the first processor in /proc/cpuinfo; empty where the system has no such file."""
    if not CPUINFO.is_file():
        return {}
    facts = {}
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def provenance() -> Provenance:
    """``command``, ``commit``, ``processor`` and ``date`` of this process."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit_name(),
        "processor": processor_name(),
        "date": datetime.date.today().isoformat(),
    }
