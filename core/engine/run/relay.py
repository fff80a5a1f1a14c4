"""How several processes end: all of them, with one exit code, and one voice that says why."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil
import torch.distributed as dist

from core.engine.run.distributed import World
from core.engine.run.stopping import leave
from core.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR

__all__ = ["SILENT_AFTER", "Relay"]

_POLL = 0.5  # s between two looks at the others
SILENT_AFTER = 120.0  # s without a sign of life from a process until it is given up
_ANSWERS = 5.0  # s that the others get to hear of an end
_NEWS = 3.0  # s until an error of a collective is no longer taken for the consequence of another rank's end

_END, _ENDS = "lidistill/end", "lidistill/ends"
_PRINTED, _HEARD = "lidistill/printed", "lidistill/heard"


class Relay:
    """Carries the end of any rank to all of them.

    The launcher may discard the output of every rank but 0, so rank 0 prints. The first end that is told wins: the
    others leave with its exit code. It travels through the processes' key-value store; a thread of each looks for it
    twice a second, even while the main thread waits in a collective. The same thread gives signs of life, and rank 0
    names a process that gives none for :data:`SILENT_AFTER`.

    Args:
        world: this process among the others.
        store: what they meet by; None with one process, where a relay does nothing.
    """

    def __init__(self, world: World, store: dist.Store | None) -> None:
        self.world = world
        self._closed = threading.Event()
        self._ending = threading.Lock()
        if store is None:
            self.store = None
            return
        # a connection of each thread; the method is documented, and torch's stubs lack it
        self.store = store.clone()  # type: ignore[attr-defined]
        self._watched = store.clone()  # type: ignore[attr-defined]
        self.store.set(_name(world.rank), f"{os.getpid()} {_namespace()} {socket.gethostname()}")
        self._names: dict[int, tuple[int, int, str]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self, text: str, code: int) -> NoReturn:
        """Tell all ranks to leave with ``code``; rank 0 prints ``text``, this one if rank 0 does not answer."""
        self._ending.acquire()  # for good: whoever comes second waits for the end
        try:
            self._announce(text, code)
        except dist.DistError:  # the store has gone with rank 0
            leave(text, code)

    def stop(self, text: str) -> NoReturn:
        """End after a signal; one that a launcher sends because another rank has died is told as that."""
        try:
            dead = self._dead_here(self.store)
        except dist.DistError:
            dead = ""
        if dead:
            self.end(_paragraph(dead), EXIT_USER_ERROR)
        self.end(f"\n{text}\n", EXIT_INTERRUPTED)

    def fail(self, text: str) -> NoReturn:
        """End after an exception that is no person's fault: it may be the consequence of another rank's end.

        Args:
            text: the traceback.
        """
        try:
            dead = self._missing()
        except dist.DistError:
            self._gone()
        if dead:
            self.end(_paragraph(dead), EXIT_USER_ERROR)
        self.end(_paragraph(text), 1)

    def close(self) -> None:
        """Stop watching; all ranks have done their work."""
        self._closed.set()

    # --- this rank's end ----------------------------------------------------------------------------------------------
    def _announce(self, text: str, code: int) -> NoReturn:
        assert self.store is not None
        signed = text if self.world.rank == 0 or not text else _signed(text, self.world.rank)
        told = self.store.compare_set(_END, "", f"{code}\n{signed}").decode()
        self.store.add(_ENDS, 1)
        self._leave_as_told(self.store, told)

    def _leave_as_told(self, store: dist.Store, told: str) -> NoReturn:
        code, _, text = told.partition("\n")
        if self.world.rank == 0:
            sys.stderr.write(text)
            sys.stderr.flush()
            store.add(_PRINTED, 1)
            _until(lambda: store.add(_HEARD, 0) >= self.world.size - 1, _ANSWERS)
            leave("", int(code))
        printed = _until(lambda: store.add(_PRINTED, 0) > 0, _ANSWERS)
        store.add(_HEARD, 1)
        leave("" if printed else text, int(code))

    # --- the others ---------------------------------------------------------------------------------------------------
    def _watch(self) -> None:
        store = self._watched
        counts = dict.fromkeys(range(1, self.world.size), -1)
        silent = dict.fromkeys(counts, 0.0)
        while not self._closed.wait(_POLL):
            try:
                if store.add(_ENDS, 0) > 0:
                    self._follow(store)
                store.add(_life(self.world.rank), 1)
                if self.world.rank == 0:
                    self._listen(store, counts, silent)
            except dist.DistError:
                if self._closed.wait(2 * _POLL):
                    return
                self._gone()

    def _follow(self, store: dist.Store) -> None:
        self._ending.acquire()
        self._leave_as_told(store, store.get(_END).decode())

    def _listen(self, store: dist.Store, counts: dict[int, int], silent: dict[int, float]) -> None:
        """Count the time without a sign of life in looks, not by the clock: a machine may have slept."""
        for rank, before in counts.items():
            counts[rank] = store.add(_life(rank), 0)
            silent[rank] = silent[rank] + _POLL if counts[rank] == before else 0.0
            if silent[rank] >= SILENT_AFTER:
                who = self._who(store, rank)
                text = f"{who} gives no sign of life for {SILENT_AFTER:.0f} s: it is stopped, or its machine is gone"
                self.end(_paragraph(text), EXIT_USER_ERROR)

    def _missing(self) -> str:
        """Which rank has died, "" = none; leaves if one has told its end meanwhile."""
        assert self.store is not None
        store = self.store
        found: list[str] = []

        def known() -> bool:
            if store.add(_ENDS, 0) > 0:
                self._follow(store)
            found.append(self._dead_here(store))
            return bool(found[-1])

        if _until(known, _NEWS):
            return found[-1]
        before = [store.add(_life(rank), 0) for rank in range(self.world.size)]
        time.sleep(_NEWS)
        for rank, count in enumerate(before):
            if rank != self.world.rank and store.add(_life(rank), 0) == count:
                return f"{self._who(store, rank)} does not answer any more"
        return ""

    def _dead_here(self, store: dist.Store | None) -> str:
        """A rank of this machine whose process is no more, "" = none."""
        if store is None:
            return ""
        here = (_namespace(), socket.gethostname())
        for rank in range(self.world.size):
            pid, *place = self._identity(store, rank)
            if tuple(place) == here and not _runs(pid):
                return (
                    f"{self._who(store, rank)} has died. The usual cause is too little memory: the system stops the "
                    "largest process"
                )
        return ""

    def _identity(self, store: dist.Store, rank: int) -> tuple[int, int, str]:
        """Process, its numbers' namespace (containers have their own), host."""
        if rank not in self._names:
            if not store.check([_name(rank)]):  # it has not come that far
                return 0, 0, ""
            pid, namespace, host = store.get(_name(rank)).decode().split(" ", 2)
            self._names[rank] = (int(pid), int(namespace), host)
        return self._names[rank]

    def _who(self, store: dist.Store, rank: int) -> str:
        pid, _, host = self._identity(store, rank)
        return f"rank {rank} (process {pid} on {host})"

    def _gone(self) -> NoReturn:
        """The store does not answer: rank 0, which prints for all, is gone, or the launcher that keeps it."""
        self._ending.acquire()
        text = f"[rank {self.world.rank}] rank 0, or the launcher, has died"
        leave(_paragraph(text), EXIT_USER_ERROR)


def _paragraph(text: str) -> str:
    again = "" if "Traceback" in text else ". Start the same command again to go on"
    return f"\nerror: {text.rstrip()}{again}\n"


def _signed(text: str, rank: int) -> str:
    """The text with its rank, behind the word that begins it."""
    word, colon, rest = text.partition("error: ")
    return f"{word}{colon}[rank {rank}] {rest}" if colon else f"\n[rank {rank}] {text.lstrip()}"


def _name(rank: int) -> str:
    return f"lidistill/name/{rank}"


def _namespace() -> int:
    """Which containers' process numbers these are; 0 where the system has but one kind."""
    path = Path("/proc/self/ns/pid")
    return path.stat().st_ino if path.exists() else 0


def _life(rank: int) -> str:
    return f"lidistill/life/{rank}"


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
