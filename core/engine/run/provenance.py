"""Who made a figure: the command line, the code's commit, the processor and the day."""

from __future__ import annotations

import datetime
import shlex
import sys

from core.engine.run.run_dir import git_state
from core.machine import processor_name

__all__ = ["commit_name", "provenance"]


def commit_name() -> str:
    """The code's commit, with "local changes" where there are any; empty outside a git checkout."""
    state = git_state()
    if not state:
        return ""
    if state["dirty"]:
        return f"{state['commit']} with local changes"
    return str(state["commit"])


def provenance() -> dict[str, str]:
    """``command``, ``commit``, ``processor`` and ``date`` of this process."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit_name(),
        "processor": processor_name(),
        "date": datetime.date.today().isoformat(),
    }
