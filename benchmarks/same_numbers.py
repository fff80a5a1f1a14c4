"""Whether a redesign changed a number: two checkouts run the same small jobs, and what they write is compared.

    python benchmarks/same_numbers.py OLD_CHECKOUT [--jobs NAME ...] [--keep DIR] [--json FILE]
    python benchmarks/same_numbers.py --list

The jobs are every network with labels and with each method, every reader, paste and mix, one process and two, killed
runs, votes, predictions, submissions, robustness and exchanged weights. Compared are checkpoints (weights, optimiser,
random state), losses, scores, predictions and zips, bit for bit. The exit code is 1 if something differs that is not
in EXPECTED, or a job fails. What a mended fault explains is expected of checkouts that still have it, of no others.

Both checkouts run in this Python environment. Worlds and the weights that later jobs start from are the old
checkout's, so that each difference shows where it is made. PandaSet's jobs need real frames: LIDISTILL_REALDATA names
the folder that holds ``pandaset/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from artefacts import Finding, compare_folders
from same_jobs import JOBS, WORLDS, Job
from same_runs import JobError, Side, pandaset_root, prepare, run_job

TREE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mended:
    """A fault whose mending changes numbers; it explains a difference from a checkout that still has the fault.

    Attributes:
        reason: what was mended. jobs, artefacts: patterns of what it may change.
        file, text: what the mending brought; a checkout whose file lacks the text has the fault.
    """

    reason: str
    jobs: tuple[str, ...]
    file: str
    text: str
    artefacts: str = "*"

    def explains(self, job: str, artefact: str, tree: Path) -> bool:
        """Whether a difference of ``artefact`` from ``tree`` comes of this fault."""
        if not fnmatch(artefact, self.artefacts):
            return False
        if not any(fnmatch(job, pattern) for pattern in self.jobs):
            return False
        path = tree / self.file
        return not path.is_file() or self.text not in path.read_text(encoding="utf-8")


# Everything else has to be equal.
EXPECTED = (
    Mended(
        "labels of neighbouring sweeps reach the loss",
        ("labelled-sweeps",),
        "core/datasets/semantickitti/reader.py",
        "labelled: bool",
    ),
    Mended(
        "radial windows and range bins begin at PandaSet's scanner",
        ("pandaset-spvcnn_spformer",),
        "core/datasets/pandaset/reader.py",
        "Sensor(",
    ),
    Mended(
        "range bins begin at PandaSet's scanner",
        ("pandaset-*",),
        "core/datasets/pandaset/reader.py",
        "Sensor(",
        artefacts="evaluation-val.json",
    ),
    Mended(
        "the picture names the world it shows",
        ("robustness*",),
        "core/engine/report/robustness.py",
        "which world this is",
        artefacts="*.png",
    ),
    Mended(
        "the pixels' classifier has no bias, as published; in evaluation it reads the image's own pixels",
        (
            *("u2mkd-spvcnn*", "u2mkd-minkunet", "u2mkd-no-teacher*"),
            *("two-processes-u2mkd", "paste-u2mkd", "pandaset-u2mkd"),
        ),
        "core/models/fusion/c2l.py",
        "bias=False",
    ),
    Mended(
        "2DPASS reads the pixel on whose area a point falls, mirrored, resized and at the border too",
        (
            *("2dpass-twodpass", "2dpass-minkunet", "2dpass-spvcnn*", "2dpass-sphereformer"),
            "resume-old-student",
        ),
        "core/contracts/sample.py",
        "areas:",
    ),
)


@dataclass(frozen=True)
class Result:
    """What came of one job.

    Attributes:
        state: "equal", "differs", "expected", "failed" or "skipped".
        findings: of the compared files.
        message: why it was skipped, or how it failed.
    """

    job: str
    state: str
    findings: tuple[Finding, ...] = ()
    message: str = ""
    seconds: float = 0.0


# --- judging --------------------------------------------------------------------------------------------------------
def reason(job: str, artefact: str, old: Path) -> str | None:
    """The mended fault of the ``old`` tree that explains a difference from it, if there is one."""
    for mended in EXPECTED:
        if mended.explains(job, artefact, old):
            return mended.reason
    return None


def judge(job: str, findings: Sequence[Finding], seconds: float, old: Path) -> Result:
    """The result of a job from its compared files; nothing compared is a failure."""
    if not findings:
        return Result(job, "failed", message="it wrote nothing to compare", seconds=seconds)
    different = [finding for finding in findings if finding.difference is not None]
    state = "equal"
    if different:
        state = "expected"
    if any(reason(job, finding.artefact, old) is None for finding in different):
        state = "differs"
    return Result(job, state, tuple(findings), seconds=seconds)


def try_job(job: Job, old: Side, new: Side) -> Result:
    """Run a job in both checkouts and compare what they wrote."""
    if job.real and pandaset_root() is None:
        return Result(job.name, "skipped", message="no real frames; set LIDISTILL_REALDATA")
    start = time.monotonic()
    try:
        run_job(job, old, new)
        findings = compare_folders(old.out(job.name), new.out(job.name))
    except JobError as error:
        return Result(job.name, "failed", message=str(error), seconds=time.monotonic() - start)
    return judge(job.name, findings, time.monotonic() - start, old.tree)


def show(result: Result, old: Path) -> None:
    """Print a job's line, and one more for every difference."""
    files, values = len(result.findings), sum(finding.values for finding in result.findings)
    print(
        f"{result.job:26s} {result.state:9s} {files:4d} files {values:6d} values {result.seconds:6.1f} s",
        flush=True,
    )
    if result.message:
        print("    " + result.message.replace("\n", "\n    "), flush=True)
    for finding in result.findings:
        if finding.difference is None:
            continue
        print(f"    {finding.artefact}: {finding.difference}", flush=True)
        mended = reason(result.job, finding.artefact, old)
        if mended is not None:
            print(f"        expected: {mended}", flush=True)


def chosen(names: Sequence[str] | None) -> list[Job]:
    """The named jobs and those whose weights they need, in the order of the table; ``*`` and ``?`` are wild.

    Raises:
        SystemExit: a name fits no job.
    """
    if not names:
        return list(JOBS.values())
    wanted: set[str] = set()
    for name in names:
        found = {job for job in JOBS if fnmatch(job, name)}
        if not found:
            raise SystemExit(f"no job is called '{name}'; see --list")
        wanted |= found
    for job in reversed(JOBS.values()):
        if job.name in wanted:
            wanted.update(job.given)
    return [job for job in JOBS.values() if job.name in wanted]


# --- command line ---------------------------------------------------------------------------------------------------
def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "old", type=Path, nargs="?", metavar="OLD_CHECKOUT", help="before the change"
    )
    parser.add_argument("--new", type=Path, default=TREE, help="after it (default: this checkout)")
    parser.add_argument("--jobs", nargs="+", metavar="NAME", help="these alone, * is wild")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder, keep it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--list", action="store_true", help="name the jobs and stop")
    args = parser.parse_args()  # fmt: skip
    if args.old is None and not args.list:
        parser.error("OLD_CHECKOUT is missing")
    for tree in (args.old, args.new):
        if tree is not None and not (tree / "train_teacher.py").is_file():
            parser.error(f"{tree} is no checkout of this project: train_teacher.py is missing")
    if args.keep is not None and args.keep.is_dir() and any(args.keep.iterdir()):
        parser.error(f"{args.keep} is not empty")
    return args


def compare_trees(args: argparse.Namespace, folder: Path) -> list[Result]:
    """Run all chosen jobs below ``folder`` and print each as it ends."""
    old = Side("old", args.old.resolve(), folder / "old")
    new = Side("new", args.new.resolve(), folder / "new")
    for side in (old, new):
        side.folder.mkdir(parents=True)
    prepare(old, new)
    results = []
    for name in WORLDS:
        findings = compare_folders(old.written(name), new.written(name))
        results.append(judge(f"world-{name}", findings, 0.0, old.tree))
        show(results[-1], old.tree)
    for job in chosen(args.jobs):
        results.append(try_job(job, old, new))
        show(results[-1], old.tree)
    return results


def conclude(results: Sequence[Result]) -> int:
    """Print how many jobs are equal; the exit code."""
    states = [result.state for result in results]
    parts = []
    for state in ("equal", "expected", "differs", "failed", "skipped"):
        if state in states:
            parts.append(f"{states.count(state)} {state}")
    print(f"{len(states)} jobs: {', '.join(parts)}")
    return int("differs" in states or "failed" in states)


def main() -> int:
    """Run both checkouts and compare."""
    args = read_arguments()
    if args.list:
        print("\n".join(JOBS))
        return 0
    start = time.monotonic()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="same-numbers-"))
    try:
        results = compare_trees(args, folder.resolve())
    finally:
        if args.keep is None:
            shutil.rmtree(folder)
    code = conclude(results)
    print(f"{time.monotonic() - start:.0f} s")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
