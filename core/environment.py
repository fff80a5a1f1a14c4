"""Whether this Python has the packages; the one module that needs none of them."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

__all__ = ["check_packages", "missing_packages"]

ROOT = Path(__file__).resolve().parents[1]
_EXIT = 2  # a person can mend it, as any UserError
# Modules that every command needs, whatever its configuration.
_NEEDED = ("torch", "numpy", "pydantic", "yaml", "loguru", "tqdm")
_DIAGNOSIS = "core.doctor"  # tells of missing packages itself


def missing_packages() -> list[str]:
    """Names of the modules that this Python lacks."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def check_packages() -> None:
    """Stop where packages are missing: a command with one paragraph, a program with an ImportError.

    Raises:
        SystemExit: code 2, in a command of this project.
        ImportError: in any other program.
    """
    missing = missing_packages()
    if not missing or _DIAGNOSIS in sys.orig_argv:
        return
    if not _is_command():
        raise ImportError(_message(missing))
    sys.stderr.write(f"error: {_message(missing)}\n")
    raise SystemExit(_EXIT)


def _is_command() -> bool:
    """Whether a script of the checkout, or one of its modules with ``-m``, was started."""
    started = sys.argv[0] if sys.argv else ""
    return started == "-m" or Path(started).resolve().parent in (ROOT, ROOT / "benchmarks")


def _message(missing: list[str]) -> str:
    named = ", ".join(f"'{name}'" for name in missing[:3])
    command = " ".join([str(ROOT / ".venv/bin/python"), *sys.orig_argv[1:]])
    return (
        f"LiDistill's packages are not in this Python ({sys.executable}, {platform.python_version()}: no {named}).\n"
        f"       Set up once:   make -C {ROOT} setup\n"
        f"       then:   source {ROOT}/.venv/bin/activate   or   {command}"
    )
