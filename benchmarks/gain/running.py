"""Runs the jobs that are not done yet, a few at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from benchmarks.gain.experiment import ROOT
from benchmarks.gain.steps import Job
from core.engine.run.provenance import provenance
from core.engine.run.stopping import STOP, Stopped
from core.engine.train.progress import duration
from core.errors import UserError
from core.machine import usable_cores

__all__ = ["run_jobs"]

_OUTPUT = "output.log"
_SHOWN = 15  # lines of a failed command's output
_TICK = 1.0  # s between looks at whether a signal asks to stop


def run_jobs(jobs: Sequence[Job], at_once: int) -> None:
    """Run all that is not done, each after what it needs.

    Args:
        jobs: each after those that it needs. at_once: commands that run at a time; they share the cores.

    Raises:
        UserError: a command failed; no further one is begun.
        Stopped: a signal asked to stop, and so have the commands.
    """
    left = [job for job in jobs if not job.done]
    _tell(f"{len(jobs)} jobs, {len(jobs) - len(left)} of them done before")
    runner = _Runner(len(left), max(usable_cores() // at_once, 1))
    begun: dict[str, Future[None]] = {}
    with STOP.held(), ThreadPoolExecutor(at_once) as pool:
        for job in left:
            needed = [begun[made.job.digest] for made in job.uses if made.job.digest in begun]
            begun[job.digest] = pool.submit(runner.run, job, needed)
        try:
            for future in begun.values():
                future.result()
        except BaseException:
            runner.ended.set()
            if STOP.asked:
                _tell(f"stopped by {STOP.asked}; the same command goes on")
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Runner:
    """Runs jobs in processes of their own.

    Args:
        count: of the jobs. cores: for each.

    Attributes:
        ended: no further job is begun.
    """

    def __init__(self, count: int, cores: int) -> None:
        self.count, self.cores = count, cores
        self.ended = threading.Event()
        self._begun = 0

    def run(self, job: Job, needed: Sequence[Future[None]]) -> None:
        """Run one command when those that it needs are done; it goes on where an earlier one stopped."""
        for future in needed:
            future.result()
        if self.ended.is_set() or STOP.asked:
            raise Stopped
        self._begun += 1
        place = f"{self._begun} of {self.count}"
        _tell(f"{place}  {job.name}")
        began, made = time.perf_counter(), provenance()
        try:
            self._command(job)
        except BaseException:
            self.ended.set()
            raise
        seconds = time.perf_counter() - began
        job.finish(seconds, made)
        _tell(f"{place}  {job.name}: {duration(seconds)}")

    def _command(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.cores)}
        log = job.folder / _OUTPUT
        with (
            open(log, "ab") as output,
            subprocess.Popen(
                job.program, cwd=ROOT, env=environment, stdout=output, stderr=output
            ) as process,
        ):
            code = _wait(process)
        if STOP.asked:
            raise Stopped
        if code:
            raise UserError(
                f"this command ended with code {code}: {job.line}",
                where=str(log),
                cure=f"Its last lines:\n{_tail(log)}",
            )


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The process's exit code; a signal to stop is handed on, at which a training saves."""
    while True:
        try:
            return process.wait(_TICK)
        except subprocess.TimeoutExpired:
            if STOP.asked:
                process.terminate()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_SHOWN:])


def _tell(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
