"""Ends a training in every way a cluster does, at random moments, and counts how it left.

python benchmarks/ends.py                                  # 50 signals, 10 + 10 killed workers, 10 killed ranks
python benchmarks/ends.py --only signals --times 200 --seed 7

Two ranks train a tiny network on made-up scans on this machine. SIGTERM or SIGUSR1 goes to one of them, to both, or to
all their processes, as SLURM does: both must leave with code 75, or with 0 where nothing was left to do. A worker is
killed while the trainer computes, or while it writes a checkpoint: the trainer must leave with code 2 and one
paragraph. A rank is killed: the other must leave with code 2 and name it.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from core.engine.run.cli import run_command
from core.errors import UserError

REPO = Path(__file__).resolve().parents[1]
LIMIT = 120.0  # s from the blow to the end, on a busy machine
CONFIG = """
num_epochs: 2
batch_size: 1
dataset:
  name: folder
  root: {root}
  scans: "*.bin"
  labels: "{{stem}}.label"
  point_fields: 4
  label_dtype: uint32
  label_space: semantickitti
  split: {{train: [0, 7], val: [8, 11]}}
data: {{voxel_size: 0.4}}
model: {{name: minkunet, cr: 0.25}}
optimizer: {{name: adamw, lr: 0.003}}
train: {{save_every: 1}}
eval: {{pictures: 1}}
"""


def write_world(folder: Path) -> Path:
    """A few random scans and a configuration; returns the latter."""
    for index in range(12):
        rng = np.random.default_rng(index)
        xyz = rng.uniform([-20, -20, -2], [20, 20, 2], (700, 3))
        scan = np.column_stack([xyz, rng.random(700)]).astype(np.float32)
        scan.tofile(folder / f"{index:03d}.bin")
        labels = np.where(xyz[:, 2] < 0, 40, 50).astype(np.uint32)
        labels.tofile(folder / f"{index:03d}.label")
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(root=folder), encoding="utf-8")
    return path


@dataclass
class Job:
    """A training of one or two processes, and what they say."""

    config: Path
    run: Path
    ranks: int
    workers: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start the ranks as torchrun would, without its own answer to signals."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(REPO / "train_teacher.py"), str(self.config)]
        command += ["--run-dir", str(self.run), "--workers_per_gpu", str(self.workers)]
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_WORLD_SIZE": str(self.ranks),
            "OMP_NUM_THREADS": "1",
        }
        for rank in range(self.ranks):
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(self.said(rank), "wb") as stream:
                process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
            self.processes.append(process)

    def said(self, rank: int) -> Path:
        """Where a rank's output goes."""
        return self.run.with_suffix(f".{rank}.txt")

    def text(self, rank: int) -> str:
        """What a rank has said so far."""
        return self.said(rank).read_text(encoding="utf-8", errors="replace")

    def wait_until(self, true: Callable[[], bool]) -> bool:
        """Whether it becomes true before the job ends."""
        while not true():
            if all(process.poll() is not None for process in self.processes):
                return False
            time.sleep(0.001)
        return True

    def codes(self, limit: float = LIMIT) -> tuple[int | str, ...]:
        """How each rank left; one that did not in time is killed."""
        deadline = time.monotonic() + limit
        codes: list[int | str] = []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append("hangs")
                process.kill()
        return tuple(codes)

    def family(self, rank: int) -> list[psutil.Process]:
        """The data workers of a rank."""
        try:
            return psutil.Process(self.processes[rank].pid).children()
        except psutil.NoSuchProcess:
            return []

    def trained(self) -> bool:
        """Whether the first step is done."""
        scalars = self.run / "scalars.jsonl"
        return scalars.is_file() and scalars.stat().st_size > 0

    def saving(self) -> bool:
        """Whether a checkpoint is being written at this moment."""
        return any(self.run.glob("checkpoints/.step-*.tmp"))


def listens(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has come so far that it catches SIGTERM: Python itself needs a moment to start."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


class Trials:
    """What was done how often, and with which end."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.config = write_world(folder)
        self.count = 0
        self.span = 0.0  # s within which a signal comes
        self.wrong: list[str] = []

    def job(self, ranks: int, workers: int) -> Job:
        """A new run."""
        self.count += 1
        job = Job(self.config, self.folder / f"run{self.count}", ranks, workers)
        job.start()
        return job

    def measure(self) -> None:
        """Take the seconds of a run that is left alone, from the moment it listens."""
        job = self.job(2, 0)
        job.wait_until(lambda: all(map(listens, job.processes)))
        began = time.monotonic()
        if job.codes(10 * LIMIT) != (0, 0):
            raise UserError(f"a training that was left alone failed: {job.text(0)[-500:]}")
        self.span = time.monotonic() - began

    def signal_at_random(self) -> str:
        """Send one signal to somebody; how the job ended."""
        job = self.job(2, self.rng.choice([0, 1]))
        job.wait_until(lambda: all(map(listens, job.processes)))
        began = time.monotonic()
        whom = self.rng.choice(["rank 0", "rank 1", "both", "all"])
        number = self.rng.choice([signal.SIGTERM, signal.SIGUSR1])
        moment = self.rng.uniform(0, self.span)
        time.sleep(moment)
        chosen = job.processes if whom in ("both", "all") else [job.processes[int(whom[-1])]]
        if whom == "all":
            for worker in [*job.family(0), *job.family(1)]:
                _send(worker, number)
        for process in chosen:
            _send(psutil.Process(process.pid), number)
        codes = job.codes()
        if codes == (0, 0):  # it was faster than those before
            self.span = min(self.span, time.monotonic() - began)
        what = f"{number.name} to {whom} after {moment:.2f} s"
        return self._judge(codes in ((75, 75), (0, 0)), codes, what, job)

    def kill_worker(self, while_saving: bool) -> str:
        """Kill a data worker once the training is under way."""
        job = self.job(1, 2)
        job.wait_until(lambda: job.trained() and bool(job.family(0)))
        time.sleep(self.rng.uniform(0, 0.3))
        if while_saving:
            job.wait_until(job.saving)
        workers = job.family(0)
        if workers:
            _send(self.rng.choice(workers), signal.SIGKILL)
        codes = job.codes()
        text = job.text(0)
        one = "a worker process was killed by signal: Killed" in text and "Traceback" not in text
        return self._judge(codes == (2,) and one, codes, "killed worker", job)

    def kill_rank(self) -> str:
        """Kill one of two ranks once the training is under way."""
        job = self.job(2, 0)
        job.wait_until(job.trained)
        time.sleep(self.rng.uniform(0, 1))
        victim = self.rng.choice([0, 1])
        job.processes[victim].kill()
        codes = job.codes()
        text = job.text(1 - victim)
        named = f"rank {victim}" in text and "has died" in text and "Traceback" not in text
        return self._judge(codes[1 - victim] == 2 and named, codes, f"killed rank {victim}", job)

    def _judge(self, right: bool, codes: tuple[int | str, ...], what: str, job: Job) -> str:
        if not right:
            said = "\n".join(job.text(rank)[-1500:] for rank in range(job.ranks))
            self.wrong.append(f"{what}: codes {codes}\n{said}")
        end = f"codes {' and '.join(map(str, codes))}{'' if right else '  WRONG'}"
        sys.stdout.write(f"{self.count:4}  {what}: {end}\n")
        sys.stdout.flush()
        return end


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just finished
        process.send_signal(number)


def experiments(trials: Trials, times: int) -> dict[str, Iterator[str]]:
    """How the jobs end, by what is done to them."""

    def signals() -> Iterator[str]:
        trials.measure()
        for _ in range(times):
            yield trials.signal_at_random()

    few = max(1, times // 5)
    return {
        "signals": signals(),
        "computing": (trials.kill_worker(while_saving=False) for _ in range(few)),
        "saving": (trials.kill_worker(while_saving=True) for _ in range(few)),
        "ranks": (trials.kill_rank() for _ in range(few)),
    }


def main() -> None:
    """Run the experiments and print how often each end came; exit code 1 where one was wrong."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ("signals", "computing", "saving", "ranks")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, metavar="KIND")
    parser.add_argument("--times", type=int, default=50, help="signals; a fifth of each kill")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), args.seed)
        for name, ends in experiments(trials, args.times).items():
            if name not in args.only:
                continue
            counted = Counter(ends)
            for end, count in sorted(counted.items()):
                sys.stdout.write(f"{name:10} {count:4} x {end}\n")
                sys.stdout.flush()
    for text in trials.wrong:
        sys.stdout.write(f"\n{text}\n")
    if trials.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
