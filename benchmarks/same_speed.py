"""Whether a redesign cost time: one benchmark runs in two checkouts by turns, and its times are compared.

    python benchmarks/same_speed.py OLD_CHECKOUT [--rounds 5] [--limit 1.03] [--json FILE] BENCHMARK [OPTIONS ...]
    python benchmarks/same_speed.py ../old network.py --cr 0.5 --repeats 3 --threads 2

BENCHMARK is a file of this folder that stands in both checkouts and takes ``--json``; OPTIONS are its own. Both run in
this Python environment. Each round measures either checkout once and begins with the other one than the round before,
so that both meet the same load; what is compared are the medians over the rounds of every time that the benchmark
writes. A ratio above 1 is time lost. The exit code is 1 if one is above the limit.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.timing import write_measurement
from core.decode import read_json
from core.engine.run.cli import run_command
from core.errors import UserError

NEW = Path(__file__).resolve().parents[1]
TIMES = ("times_ms", "seconds_per_scan")  # the entries of a benchmark's JSON that hold times


def times_of(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Each time below an entry of a benchmark's JSON under the path of its names; of a list the median."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from times_of(item, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, statistics.median(value)
    elif isinstance(value, int | float):
        yield name, float(value)


def measure(tree: Path, benchmark: str, options: list[str]) -> dict[str, float]:
    """Run the benchmark once in a checkout.

    Raises:
        UserError: it is not there, fails, or writes no times.
    """
    script = tree / "benchmarks" / benchmark
    if not script.is_file():
        raise UserError("this checkout has no such benchmark", where=str(script))
    code = (tree, tree / "third_party" / "SparseTransformer")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(path) for path in code)}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "times.json"
        command = [sys.executable, str(script), *options, "--json", str(target)]
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"the benchmark failed:\n{done.stderr[-2000:]}", where=str(script))
        written = read_json(target)
    times = {}
    for entry in TIMES:
        times.update(times_of(written.get(entry, {})))
    if not times:
        raise UserError(f"the benchmark wrote none of {', '.join(TIMES)}", where=str(script))
    return times


def compare(old: Path, benchmark: str, options: list[str], rounds: int) -> dict[str, list[float]]:
    """Medians over the rounds by name of the time: [old, new]."""
    measured: dict[Path, list[dict[str, float]]] = {old: [], NEW: []}
    for number in range(rounds):
        turns = [old, NEW]
        if number % 2:
            turns.reverse()
        for tree in turns:
            measured[tree].append(measure(tree, benchmark, options))
    medians = {}
    for name in measured[NEW][0]:
        if name in measured[old][0]:
            both = [[times[name] for times in measured[tree]] for tree in (old, NEW)]
            medians[name] = [statistics.median(times) for times in both]
    return medians


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each checkout")
    parser.add_argument("--limit", type=float, default=1.03, help="largest ratio that passes")
    parser.add_argument("--json", type=Path, help="also write the medians to this file")
    parser.add_argument("benchmark", metavar="BENCHMARK")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTIONS")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    medians = compare(args.old.resolve(), args.benchmark, args.options, args.rounds)
    table = Table(title=f"{args.benchmark}, medians of {args.rounds} rounds")
    for column in ("time", "old", "new", "new / old"):
        table.add_column(column)
    slower = 0
    for name, (old, new) in medians.items():
        ratio = new / old if old else float("nan")
        slower += ratio > args.limit
        table.add_row(name, f"{old:.4g}", f"{new:.4g}", f"{ratio:.3f}")
    Console().print(table)
    if args.json is not None:
        write_measurement(args.json, {"medians": medians, "rounds": args.rounds})
    print(f"{len(medians)} times, {slower} above {args.limit}")
    sys.exit(int(slower > 0))


if __name__ == "__main__":
    run_command(main)
