"""kill -9 and go on: the final checkpoint is the uninterrupted run's, byte for byte; two processes equal one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from folder_world import write_world
from forked import until
from launched import BIN, ENV, REPO


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


def command(processes: int, config: Path, run: Path, *overrides: str) -> list[str]:
    train = [
        sys.executable,
        str(REPO / "train_teacher.py"),
        str(config),
        "--run-dir",
        str(run),
        *overrides,
    ]
    return (
        train
        if processes == 1
        else [str(BIN / "torchpack"), "dist-run", "-np", str(processes), *train]
    )


def train(processes: int, config: Path, run: Path, *overrides: str) -> str:
    result = subprocess.run(
        command(processes, config, run, *overrides),
        env=ENV,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def steps(run: Path) -> list[dict]:
    lines = (
        (run / "scalars.jsonl").read_text().splitlines() if (run / "scalars.jsonl").exists() else []
    )
    return [
        record
        for line in lines
        if line.endswith("}") and "loss/total" in (record := json.loads(line))
    ]


def kill_in_the_middle(processes: int, config: Path, run: Path, after: int) -> None:
    """Start training and send SIGKILL to a training process once ``after`` steps are written."""
    job = subprocess.Popen(
        command(processes, config, run),
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(steps(run)) < after:
        assert job.poll() is None and time.monotonic() < deadline, (
            "the run ended before it could be killed"
        )
        time.sleep(0.005)
    family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    victims = [
        p
        for p in family
        if p.name().startswith("python") and str(REPO / "train_teacher.py") in p.cmdline()
    ]
    victims[-1].send_signal(signal.SIGKILL)
    job.wait(60)
    assert job.returncode != 0


def final(run: Path) -> dict[str, str]:
    manifest = json.loads((run / "checkpoints" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_ends_bit_identical(processes, config, tmp_path):
    batch = ("--batch_size", str(2 // processes))
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    overrides = batch if processes == 2 else ()
    train(processes, config, straight, *overrides)
    path = config
    if processes == 2:  # the killed run reads its batch size from a file, as a user's would
        path = tmp_path / "config.yaml"
        path.write_text(config.read_text().replace("batch_size: 2", "batch_size: 1"))
    kill_in_the_middle(processes, path, broken, after=random.Random(processes).randint(3, 9))
    assert not (broken / "evaluation-val.json").exists()
    train(processes, path, broken)
    assert final(straight) == final(broken)
    losses = [
        [(r["global_step"], r["loss/total"]) for r in steps(run)] for run in (straight, broken)
    ]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == list(range(1, 13))


def test_two_processes_equal_one(config, tmp_path):
    # plain SGD: Adam's first steps divide by tiny second moments, which blows rounding up
    sgd = ("--optimizer.name", "sgd", "--optimizer.lr", "0.02", "--optimizer.momentum", "0.0")
    common = ("--model.dropout", "0.0", "--num_epochs", "2", *sgd)
    train(1, config, tmp_path / "one", *common)
    train(2, config, tmp_path / "two", *common, "--batch_size", "1")
    one, two = (steps(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 8
    for a, b in zip(
        one[:4], two[:4]
    ):  # later, rounding has been through too many small batch norms
        assert abs(a["loss/total"] - b["loss/total"]) < 1e-5, (a, b)
    scores = [
        json.loads((tmp_path / name / "evaluation-val.json").read_text()) for name in ("one", "two")
    ]
    assert (
        scores[0]["num_scans"] == scores[1]["num_scans"] == 3
    )  # two ranks share three scans: one is padded
    assert scores[0]["num_points"] == scores[1]["num_points"]


def test_torchrun_and_a_finished_run(config, tmp_path):
    run = tmp_path / "run"
    train_command = command(1, config, run, "--num_epochs", "1", "--batch_size", "1")[1:]
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", *train_command]
    result = subprocess.run(torchrun, env=ENV, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert (
        "mIoU" in result.stdout.splitlines()[-1] and "report.html" in result.stdout.splitlines()[-1]
    )
    before = final(run)
    again = subprocess.run(torchrun, env=ENV, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0 and final(run) == before and "already trained" in again.stderr


def test_sigterm_saves_and_leaves_with_its_own_code(config, tmp_path):
    run = tmp_path / "run"
    job = subprocess.Popen(
        command(1, config, run, "--num_epochs", "200"), env=ENV, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(steps(run)) >= 2 or job.poll() is not None)
    job.send_signal(signal.SIGTERM)
    _, messages = job.communicate(timeout=60)
    assert job.returncode == 75 and "start the same command" in messages
    newest = max(
        entry["step"]
        for entry in json.loads((run / "checkpoints" / "manifest.json").read_text()).values()
    )
    assert newest == steps(run)[-1]["global_step"]
