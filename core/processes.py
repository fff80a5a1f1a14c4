"""Processes that work for another one: how they start, how they end, and what is said when one of them dies.

Neither torch's DataLoader nor concurrent.futures serves here. Their workers share queues with locks, which a killed
worker takes along; they die of a scheduler's SIGTERM while the last step still needs them, or outlive a killed parent;
and torch's come through /dev/shm, where a full one loses a batch without a word.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkContext, ForkServerContext
from typing import Any, TypeVar

import psutil
from loguru import logger

from core.errors import UserError
from core.machine import patience
from core.transport import receive, send

__all__ = ["STOPPED_AFTER", "WorkerPool", "shared_work"]

T = TypeVar("T")
R = TypeVar("R")
_LOADING = (
    "core.data.loader"  # what workers under MPI import once for all of them, and with it torch
)
_AHEAD = 2  # tasks that each worker is given in advance
_TICK = 1.0  # s between two looks at a worker that is waited for
STOPPED_AFTER = 30.0  # s that a worker may stand still by a signal before it is an error
_SLOW_AFTER = 60.0  # s until it is told once that a worker is waited for


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker."""

    error: BaseException


@dataclass
class _Worker:
    process: Any  # of the context
    line: socket.socket
    tasks: deque[tuple[int, Any]] = field(default_factory=deque)  # given and not yet answered


class WorkerPool:
    """Processes that each hold ``work`` and apply it to tasks; they start with the first task.

    Nothing is shared between the workers, not even a lock: one that is killed or stopped takes nothing along.
    A worker ends when this process does, and only then: a signal that a scheduler sends to all processes asks this
    one to stop, which may still need the workers for its last step.

    Args:
        work: called with one task; what it returns is pickled, arrays and tensors are not copied.
        count: processes.
        where: the key or option that says how many, for errors.
        describe: names a task in errors and warnings.
        fresh: processes inherit no threads of this one; the module that they import once for all of them.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        count: int,
        where: str,
        describe: Callable[[Any], str] = str,
        fresh: str | None = None,
    ) -> None:
        self._work = work
        self._count = count
        self._where = where
        self._describe = describe
        self._fresh = fresh
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        weakref.finalize(self, _end, self._workers, self._owner)
        _POOLS.add(self)
        self._numbers = itertools.count()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of ``tasks``, which are taken as they are needed. A later run takes the place of this.

        Raises:
            UserError: the work raised one, or a worker was killed, stopped, or does not answer.
        """
        if not self._workers:
            self._start()
        waiting: deque[tuple[_Worker, int]] = deque()
        source = iter(tasks)
        for worker in itertools.islice(itertools.cycle(self._workers), _AHEAD * self._count):
            self._give(worker, source, waiting)
        while waiting:
            worker, number = waiting.popleft()
            result = self._result(worker, number)
            self._give(worker, source, waiting)
            yield result

    def _give(
        self, worker: _Worker, source: Iterator[Any], waiting: deque[tuple[_Worker, int]]
    ) -> None:
        """Hand a worker the next task, if there is one."""
        for task in itertools.islice(source, 1):
            number = next(self._numbers)
            worker.tasks.append((number, task))
            try:
                send(worker.line, task)
            except OSError as error:
                raise self._death(worker) from error
            waiting.append((worker, number))

    def _result(self, worker: _Worker, wanted: int) -> Any:
        """The answer to a task; those that a run given up has left behind are dropped."""
        while True:
            self._wait(worker)
            try:
                answer = receive(worker.line)
            except EOFError as error:
                raise self._death(worker) from error
            number, _ = worker.tasks.popleft()
            if number != wanted:
                continue
            if isinstance(answer, _Failure):
                self.close()
                raise answer.error
            return answer

    def _wait(self, worker: _Worker) -> None:
        """Return when the worker has answered.

        Raises:
            UserError: a worker was killed, or this one stands still.
        """
        began = time.monotonic()
        stopped = 0.0
        told = False
        ends = {other.process.sentinel: other for other in self._workers}
        while True:
            ready = connection.wait([worker.line, *ends], timeout=_TICK)
            for end in ready:
                if isinstance(end, int):
                    raise self._death(ends[end])
            if ready:
                return
            waited = time.monotonic() - began
            stopped = stopped + _TICK if _is_stopped(worker.process.pid) else 0.0
            if stopped >= STOPPED_AFTER:
                raise self._standing(worker, f"has been stopped by a signal for {stopped:.0f} s")
            if waited > patience().total_seconds():
                raise self._standing(worker, f"has not answered for {waited / 60:.0f} minutes")
            if waited > _SLOW_AFTER and not told:
                told = True
                logger.warning("{} for {:.0f} s", self._slow(worker), waited)

    def _start(self) -> None:
        context = _context(self._fresh)
        for _ in range(self._count):
            ours, theirs = socket.socketpair()
            process = context.Process(target=_serve, args=(theirs, ours, self._work), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def close(self) -> None:
        """End the workers now; a later run starts new ones."""
        _end(self._workers, self._owner)

    def _death(self, worker: _Worker) -> UserError:
        """How a worker ended that should not have."""
        worker.process.join(5.0)  # its files close a moment before its exit code is known
        code = worker.process.exitcode or 0
        how = "ended without an error message"
        if code < 0:
            how = f"was killed by signal: {signal.strsignal(-code)}"
        working = self._tasks(worker)
        self.close()
        return UserError(
            f"a worker process {how}{working}. The usual cause is too little memory: the system stops the largest "
            "process",
            where=self._where,
            cure=f"Lower {self._where} (0 works in the main process itself) or free some memory",
        )

    def _standing(self, worker: _Worker, how: str) -> UserError:
        working, pid = self._tasks(worker), worker.process.pid
        self.close()
        return UserError(
            f"a worker process (pid {pid}) {how}{working}",
            where=self._where,
            cure="Look at the disk it reads from, then start the same command again; LIDISTILL_TIMEOUT_MINUTES says "
            "how long is waited",
        )

    def _slow(self, worker: _Worker) -> str:
        return f"waiting for worker process {worker.process.pid}{self._tasks(worker)}"

    def _tasks(self, worker: _Worker) -> str:
        """What the worker was doing, if it had anything to do."""
        for _, task in worker.tasks:
            return f", at work on {self._describe(task)}"
        return ""


@contextmanager
def shared_work(
    work: Callable[[T], R],
    tasks: Iterable[T],
    count: int,
    where: str,
    describe: Callable[[T], str] = str,
) -> Iterator[Iterator[R]]:
    """Results in the order of ``tasks``, of so many processes; with one or none the work is done in this one.

    Args:
        work, where, describe: see :class:`WorkerPool`.
    """
    if count <= 1:
        yield map(work, tasks)
        return
    with WorkerPool(work, count, where, describe) as pool:
        yield pool.run(tasks)


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


@atexit.register  # before multiprocessing, imported above, waits for all processes
def _end_all() -> None:
    for pool in list(_POOLS):
        pool.close()


def _end(workers: list[_Worker], owner: int) -> None:
    """End the workers of this process; what it forks has a copy of the list, and must not."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.line.close()
        worker.process.kill()  # nothing is shared, so nothing can be left half-done
    for worker in workers:
        worker.process.join()
    workers.clear()


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def _context(fresh: str | None) -> ForkContext | ForkServerContext:
    """Choose how workers start.

    ``fork`` is fastest (nothing is imported anew), but not safe once MPI runs in the parent.
    There a server process forks them, which has imported a module, and with it torch, once for all of them.
    """
    under_mpi = any(name.startswith(("OMPI_", "PMI_", "PMIX_")) for name in os.environ)
    if fresh is None and not under_mpi:
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([fresh or _LOADING])
    return context


def _serve(line: socket.socket, other: socket.socket, work: Callable[[Any], Any]) -> None:
    """A worker's life: answer tasks until the other side of the line is gone."""
    other.close()  # this end must not hold itself open
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _one_thread()
    while True:
        try:
            task = receive(line)
            _answer(line, work, task)
        except (EOFError, ConnectionError):
            os._exit(0)


def _one_thread() -> None:
    """The cores belong to the workers and the main process, and OpenMP does not survive a fork."""
    import torch

    torch.set_num_threads(1)


def _answer(line: socket.socket, work: Callable[[Any], Any], task: Any) -> None:
    try:
        send(line, work(task))
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, the main process tells it)
        send(line, _Failure(_portable(error)))


def _portable(error: Exception) -> Exception:
    """An error as it can leave the process: a person's as it is, a defect with its traceback."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, (MemoryError, OSError)):
        return UserError(
            f"a worker process could not go on ({str(error) or type(error).__name__})",
            cure="Free some memory, start fewer workers, or look at the disk that is read from",
        )
    text = "in a worker process:\n" + "".join(traceback.format_exception(error))
    error.add_note(text)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (made here)
    except Exception:  # noqa: BLE001  (errors of libraries may pickle and not come back)
        return RuntimeError(text)
    return error
