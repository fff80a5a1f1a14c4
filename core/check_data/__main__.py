"""The command line: ``python -m core.check_data``."""

from __future__ import annotations

from core.check_data.command import main
from core.engine.run.cli import run_command

if __name__ == "__main__":
    run_command(main)
