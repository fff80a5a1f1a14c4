"""``benchmarks/same_speed.py``: medians over the rounds of each checkout, and a slower one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import same_speed
from core.errors import UserError

CLOCK = """
import json, sys
from pathlib import Path
runs = Path(__file__).with_name("runs")
runs.touch()
number = len(runs.read_text())
runs.write_text("x" * (number + 1))
times = {"step": {"clock": [%s[number], 99, 0]}}
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({"times_ms": times, "points": 7}))
"""


def checkout(folder: Path, times: list[float]) -> Path:
    """A tree with one benchmark that claims these times, one per run."""
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "clock.py").write_text(CLOCK % times)
    return folder


def test_medians_over_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of each run's list, then over the runs; counts are no times."""
    old = checkout(tmp_path / "old", [1.0, 5.0, 2.0])
    monkeypatch.setattr(same_speed, "NEW", checkout(tmp_path / "new", [4.0, 3.0, 8.0]))
    assert same_speed.compare(old, "clock.py", [], rounds=3) == {"step/clock": [2.0, 4.0]}


def test_a_benchmark_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such benchmark"):
        same_speed.measure(tmp_path, "clock.py", [])
