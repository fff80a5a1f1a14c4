"""``python -m core.engine.submission check|remap``."""

from core.engine.run.cli import run_command
from core.engine.score.submission import main

if __name__ == "__main__":
    run_command(main)
