"""``make demo``: a made-up town, a teacher, a student without and with it, a report.

Each step is a command that a person could type. Started again, each of them finds what it made before, and goes on.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from core.decode import read_json
from core.engine.run.cli import run_command
from core.errors import UserError
from core.machine import native_bf16, usable_cores

__all__ = ["STEPS", "Plan", "Step", "main", "plan"]

ROOT = Path(__file__).resolve().parents[2]
WORLD = "data/synthetic/nuscenes"
CONFIGS = "configs/synthetic/demo"
RUNS = "runs/synthetic/demo"
SCORES = {
    name: f"{RUNS}/{name}/evaluation-val.json" for name in ("teacher", "no_teacher", "student")
}
FIRST_SCORE = 0.3  # of the teacher's time, until its first score
_UNIT = 0.0125  # s per :func:`_unit_of_work` on one core of the processor that Step.minutes were measured on
_MEASURE = 1.5  # s
_CLOCK = re.compile(r"(\d\d:\d\d:\d\d )?(.*)", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """Part of the demo.

    Attributes:
        title: what it does. commands: scripts and their arguments, by the name that begins their lines, side by side.
        results: files that are there once the step is done; none = it is never done.
        minutes: processor time on the processor of ``_UNIT``.
    """

    title: str
    commands: Mapping[str, str]
    results: tuple[str, ...]
    minutes: float

    @property
    def done(self) -> bool:
        """Whether its results are there."""
        there = [(ROOT / result).is_file() for result in self.results]
        return bool(there) and all(there)


STEPS = (
    Step(
        "a town of 60 scans with six cameras",
        {"town": f"prepare_synthetic.py {WORLD} --scenes 6 --keyframes 10 --workers 2"},
        (f"{WORLD}/synthetic.json",),
        0.3,
    ),
    Step(
        "its objects, which are pasted into other scans",
        {"objects": f"prepare_inst_database.py {CONFIGS}/teacher.yaml --workers 2"},
        (f"{WORLD}/inst_database_train/meta.json",),
        0.2,
    ),
    Step(
        "a LiDAR teacher on three sweeps",
        {"teacher": f"train_teacher.py {CONFIGS}/teacher.yaml --run-dir {RUNS}/teacher"},
        (SCORES["teacher"],),
        7.0,
    ),
    Step(
        "two LiDAR + camera students side by side, without the teacher and with it",
        {
            name: f"train_student.py {CONFIGS}/{name}.yaml --run-dir {RUNS}/{name}"
            for name in ("no_teacher", "student")
        },
        (SCORES["no_teacher"], SCORES["student"]),
        9.5,
    ),
    Step(
        "a report that compares the three",
        {
            "report": f"evaluate.py score {CONFIGS}/student.yaml --run-dir {RUNS}/student "
            f"--checkpoint {RUNS}/student --report --compare Teacher={SCORES['teacher']} "
            f"--compare 'Without distillation={SCORES['no_teacher']}'"
        },
        (),
        0.4,
    ),
)


@dataclass(frozen=True)
class Plan:
    """What is left to do here, and how long that takes.

    Attributes:
        minutes: for the steps that are not done. first_score: minutes until a network is scored, None = one is.
    """

    minutes: float
    first_score: float | None

    def __str__(self) -> str:
        numbers = "bf16" if native_bf16() else "fp32"
        text = f"about {max(self.minutes, 1):.0f} min on {usable_cores()} cores in {numbers}"
        if self.first_score is not None:
            text += f", the first score after {max(self.first_score, 1):.0f}"
        return text


def plan(seconds: float = _MEASURE) -> Plan:
    """Measure this machine and tell what the demo costs here.

    Args:
        seconds: how long to measure.
    """
    slower = _seconds_per_unit(seconds) / _UNIT
    factor = slower / min(usable_cores(), 8) ** 0.75  # two cores are 1.7 times as fast as one
    left = [step for step in STEPS if not step.done]
    minutes = factor * sum(step.minutes for step in left)
    *before, teacher = STEPS[:3]
    if teacher.done:
        return Plan(minutes, None)
    first = FIRST_SCORE * teacher.minutes + sum(step.minutes for step in before if step in left)
    return Plan(minutes, factor * first)


def _seconds_per_unit(seconds: float) -> float:
    """Time a sparse and a dense convolution, forward and backward, on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _unit_of_work()  # the first is slower
    count = 0
    start = time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        _unit_of_work()
        count += 1
    spent = time.perf_counter() - start
    torch.set_num_threads(threads)
    return spent / count


def _unit_of_work() -> None:
    import torch

    from core.sparse import Conv3d, SparseTensor

    side = torch.arange(64)
    x, y = torch.meshgrid(side, side, indexing="ij")
    ground = torch.stack([torch.zeros_like(x), x, y, (x + y) // 8], -1).reshape(-1, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16()):
        sparse = SparseTensor.from_batch(torch.ones(len(ground), 48), ground.int())
        loss = Conv3d(48, 48)(sparse).feats.float().sum()
        image = torch.ones(1, 48, 36, 64)
        loss = loss + torch.nn.Conv2d(48, 48, 3)(image).float().sum()
    loss.backward()


def _run(step: Step) -> None:
    """Run the commands of a step side by side.

    Raises:
        UserError: one of them failed.
    """
    if len(step.commands) == 1:
        ((name, command),) = step.commands.items()
        code = subprocess.run(_python(command), cwd=ROOT, check=False).returncode
        _check(name, command, code)
        return
    threads = max(1, usable_cores() // len(step.commands))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    jobs = {
        name: subprocess.Popen(
            _python(command),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, command in step.commands.items()
    }
    try:
        readers = [threading.Thread(target=_pass_on, args=job) for job in jobs.items()]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        for name, job in jobs.items():
            _check(name, step.commands[name], job.wait())
    finally:
        for job in jobs.values():
            job.terminate()


def _python(command: str) -> list[str]:
    return [sys.executable, *shlex.split(command)]


def _check(name: str, command: str, code: int) -> None:
    if code != 0:
        raise UserError(
            f"this step of the demo ended with code {code}; what it said stands above",
            where=f"{name}: python {command}",
            cure="Mend it, then 'make demo' goes on where it stopped",
        )


def _pass_on(name: str, job: subprocess.Popen[str]) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        sys.stderr.write(named(name, line))
        sys.stderr.flush()


def named(name: str, line: str) -> str:
    """A line of a job with the job's name after its time, unless it stands there already."""
    match = _CLOCK.match(line)
    assert match is not None
    clock, text = match[1] or "", match[2]
    if text.startswith(f"{name} "):
        return line
    return f"{clock}{name}  {text}"


def _summary(seconds: float) -> str:
    miou = {name: read_json(ROOT / path)["miou"] for name, path in SCORES.items()}  # percent
    gain = miou["student"] - miou["no_teacher"]
    return (
        f"teacher {miou['teacher']:.1f}, student without it {miou['no_teacher']:.1f}, with it "
        f"{miou['student']:.1f} mIoU ({gain:+.1f}; one seed)   {seconds / 60:.1f} minutes"
    )


def main() -> None:
    """Run what is left of the demo.

    Raises:
        UserError: a step failed.
    """
    argparse.ArgumentParser(prog="python -m core.engine.demo", description=__doc__).parse_args()
    started = time.perf_counter()
    todo = plan()
    until = datetime.now() + timedelta(minutes=todo.minutes)
    _say(f"{todo}, until {until:%H:%M}:")
    for number, step in enumerate(STEPS, 1):
        _say(f"  {number}. {step.title}{' (done)' if step.done else ''}")
    _say("Stopped or killed, 'make demo' goes on where it was.")
    for number, step in enumerate(STEPS, 1):
        _say(f"\nstep {number}/{len(STEPS)}: {step.title}")
        _run(step)
    _say(f"\n{_summary(time.perf_counter() - started)}")
    _say(f"open {RUNS}/student/report.html")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_command(main)
