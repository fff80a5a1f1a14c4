"""Runs the jobs that are not done yet, a few at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from benchmarks.gain.experiment import ROOT
from benchmarks.gain.steps import Job
from core.engine.train.progress import duration
from core.errors import UserError
from core.machine import usable_cores

__all__ = ["run_jobs"]

_OUTPUT = "output.log"
_SHOWN = 15  # lines of a failed command's output


def run_jobs(jobs: Sequence[Job], at_once: int) -> None:
    """Run all that is not done, each after what it needs.

    Args:
        jobs: each after those that it needs. at_once: commands that run at a time; they share the cores.

    Raises:
        UserError: a command failed; no further one is begun.
    """
    left = [job for job in jobs if not job.done]
    _tell(f"{len(jobs)} jobs, {len(jobs) - len(left)} of them done before")
    begun: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(at_once) as pool:
        for place, job in enumerate(left, 1):
            needed = [begun[made.job.digest] for made in job.uses if made.job.digest in begun]
            place_of = f"{place} of {len(left)}"
            begun[job.digest] = pool.submit(_run, job, needed, place_of, usable_cores() // at_once)
        try:
            for future in begun.values():
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run(job: Job, needed: Sequence[Future[None]], place: str, cores: int) -> None:
    """Run one command in a process of its own; it goes on where an earlier one stopped."""
    for future in needed:
        future.result()
    _tell(f"{place}  {job.name}")
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(cores, 1))}
    began = time.perf_counter()
    log = job.folder / _OUTPUT
    with open(log, "ab") as stream:
        code = subprocess.run(
            job.program, cwd=ROOT, env=environment, stdout=stream, stderr=stream, check=False
        ).returncode
    if code:
        raise UserError(
            f"this command ended with code {code}: {job.line}",
            where=str(log),
            cure=f"Its last lines:\n{_tail(log)}",
        )
    seconds = time.perf_counter() - began
    job.finish(seconds)
    _tell(f"{place}  {job.name}: {duration(seconds)}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_SHOWN:])


def _tell(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
