"""Worker processes: order, errors, and what is said of one that is killed, stopped or silent."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from forked import exit_code, fork, until

from core import processes
from core.errors import UserError
from core.processes import WorkerPool


def double(task: int) -> int:
    return 2 * task


def pid_of(_: object) -> int:
    return os.getpid()


def pids(pool: WorkerPool) -> list[int]:
    """The processes of a pool of two."""
    return list(pool.run([0, 1]))


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(pid_of, 2, "workers_per_gpu") as made:
        yield made


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("tasks", [0, 2, 20])
def test_results_in_the_order_of_the_tasks(count: int, tasks: int) -> None:
    with WorkerPool(double, count, "x") as pool:
        for _ in range(2):
            assert list(pool.run(range(tasks))) == [2 * task for task in range(tasks)]


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(20):
            taken.append(task)
            yield task

    with WorkerPool(double, 2, "x") as pool:
        results = pool.run(tasks())
        assert next(results) == 0 and taken == [0, 1, 2, 3, 4], "two ahead for each worker"


def test_a_run_given_up_leaves_nothing_behind() -> None:
    with WorkerPool(double, 2, "x") as pool:
        assert next(pool.run(range(9))) == 0
        assert list(pool.run(range(50, 53))) == [100, 102, 104]


# --- errors of the work ---------------------------------------------------------------------------------------------
def raising(task: str) -> None:
    if task == "user":
        raise UserError("the file is cut short", where="3.bin")
    if task == "memory":
        raise MemoryError
    if task == "disk":
        raise OSError(5, "Input/output error")
    if task == "odd":

        class Odd(Exception):
            """Does not pickle."""

        raise Odd("strange")
    raise KeyError("a defect")


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [
        ("user", UserError, r"^3\.bin: the file is cut short\.$"),
        ("memory", UserError, r"could not go on \(MemoryError\)"),
        ("disk", UserError, "Input/output error"),
        ("odd", RuntimeError, r"(?s)in a worker process.*raise Odd.*strange"),
        ("defect", KeyError, "a defect"),
    ],
)
def test_errors_arrive(task: str, kind: type[Exception], words: str) -> None:
    with WorkerPool(raising, 1, "x") as pool, pytest.raises(kind, match=words) as caught:
        list(pool.run([task]))
    if kind is KeyError:
        assert "raise KeyError" in caught.value.__notes__[0], "the traceback of the worker"


def hungry(_: object) -> torch.Tensor:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    return torch.zeros(100_000)


def test_no_room_for_a_result_is_one_paragraph() -> None:
    with WorkerPool(hungry, 1, "x") as pool, pytest.raises(UserError, match="File too large"):
        list(pool.run([0]))


# --- ends that were not asked for -----------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
def test_killed_while_this_process_computes(pool: WorkerPool, number: int) -> None:
    """Nothing is raised until the next result is wanted, whatever the trainer does meanwhile."""
    results = pool.run(range(9))
    victim = next(results)
    os.kill(victim, number)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        torch.ones(10).sum()
    with pytest.raises(UserError, match=f"killed by signal: {signal.strsignal(number)}") as caught:
        list(results)
    assert caught.value.where == "workers_per_gpu" and "\n" not in str(caught.value)
    assert len(set(pids(pool))) == 2, "new ones start"


def stop(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return task


def test_a_stopped_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_TICK", 0.05)
    monkeypatch.setattr(processes, "STOPPED_AFTER", 0.2)
    words = "stopped by a signal for 0 s, at work on task 1"
    with (
        WorkerPool(stop, 2, "x", describe="task {}".format) as pool,
        pytest.raises(UserError, match=words),
    ):
        list(pool.run([0, 1]))


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_a_silent_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_TICK", 0.05)
    monkeypatch.setenv("LIDISTILL_TIMEOUT_MINUTES", "0.003")
    words = "has not answered .* at work on 60 s"
    with (
        WorkerPool(sleep, 1, "x", describe="{} s".format) as pool,
        pytest.raises(UserError, match=words),
    ):
        list(pool.run([60]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_that_a_scheduler_sends_to_all_leave_workers_alone(
    pool: WorkerPool, number: int
) -> None:
    before = pids(pool)
    for pid in before:
        os.kill(pid, number)
    assert pids(pool) == before


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(workers: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(alive, workers)):
            return True
        time.sleep(0.01)
    return False


def test_workers_of_a_killed_process_leave(tmp_path: Path) -> None:
    """Two pools: the second's workers hold the first's lines open until they leave themselves."""
    told = tmp_path / "pids"

    def job() -> None:
        pools = [WorkerPool(pid_of, 2, "x") for _ in range(2)]
        told.with_suffix(".tmp").write_text(" ".join(str(p) for pool in pools for p in pids(pool)))
        told.with_suffix(".tmp").rename(told)
        time.sleep(60)

    child = fork(job)
    until(told.exists)
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    assert gone([int(word) for word in told.read_text().split()], 4.0)


def test_a_pool_that_is_forgotten_ends_its_workers() -> None:
    pool = WorkerPool(pid_of, 2, "x")
    workers = pids(pool)
    del pool
    assert gone(workers, 1.0)


def test_a_fork_of_this_process_does_not_end_its_workers(pool: WorkerPool) -> None:
    before = pids(pool)
    assert exit_code(fork(pool.close)) == 0
    assert pids(pool) == before
