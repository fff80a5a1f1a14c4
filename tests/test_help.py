"""``--help`` of every command: fast because nothing heavy is imported, and examples on lines of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [
    "train_teacher.py",
    "pretrain.py",
    "evaluate.py",
    "prepare_detection.py",
    "prepare_inst_database.py",
    "prepare_motion.py",
    "prepare_superpixels.py",
    "prepare_synthetic.py",
    "prepare_teacher_logits.py",
]
MODULES = [
    "core.check_data",
    "core.engine.exchange",
    "core.engine.submission",
    "core.engine.visualise",
]
COMMANDS = [*([name] for name in SCRIPTS), *(["-m", name] for name in MODULES)]
# Imports the command as Python would run it, and tells whether torch came along.
PROBE = """
import runpy, sys
words = sys.argv[1:]
module = words[0] == "-m"
sys.argv = words[1:] if module else words
try:
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
except SystemExit as leave:
    heavy = {"torch", "numba", "scipy", "matplotlib"} & set(sys.modules)
    sys.stderr.write(f"{leave.code} {sorted(heavy)}")
"""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy_and_keeps_its_lines(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "0 []"
    for line in done.stdout.splitlines():
        assert line.count("python ") <= 1, "two examples in one line"
