"""``python -m core.engine.exchange``."""

from core.engine.exchange.command import main
from core.engine.run.cli import run_command

run_command(main)
