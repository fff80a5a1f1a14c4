"""SIGTERM and SIGUSR1 ask a command to stop: at once, or, while it trains, when all processes agree to.

A signal is noticed by a thread of its own, so also while the main thread waits for another process or sits in compiled
code. Outside :meth:`StopSignals.held` the command leaves there and then, with exit code 75: files are whole or absent
at any moment, and the same command goes on. Inside, the wish is kept in :attr:`StopSignals.asked`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from core.errors import EXIT_INTERRUPTED
from core.io import remove_unfinished

__all__ = ["STOP", "StopSignals", "Stopped", "leave"]

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # set by launchers
_MEETING = 60.0  # s that a process waits for the others, to tell them, before it leaves alone


class Stopped(SystemExit):
    """A training has honoured the wish to stop, and everything is saved."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


def leave(text: str, code: int) -> NoReturn:
    """Leave the process at once, from any thread: other ranks may sit in a collective that will never finish."""
    remove_unfinished()
    if text:
        sys.stderr.write(text)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


def _leave_alone(text: str) -> None:
    leave(f"\n{text}\n", EXIT_INTERRUPTED)


class StopSignals:
    """The wish to stop of one process.

    Attributes:
        asked: name of the signal that came; "" = none. Never cleared.
        doing: what the command is at, for the message.
        leave: called with the message, from any thread; ends the process.
    """

    def __init__(self) -> None:
        self.asked = ""
        self.doing = "starting"
        self.leave: Callable[[str], None] = _leave_alone
        self._held = False
        self._settled = False
        self._installed = False
        self._leaving = threading.Lock()
        self._met = threading.Event()

    def install(self) -> None:
        """Listen from now on; in the main thread. Processes that this one forks do not."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in _SIGNALS:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_forget)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        self._installed = True

    def met(self, leave: Callable[[str], None]) -> None:
        """The processes have met: from now on ``leave`` tells the others. One that left before would be waited for."""
        self.leave = leave
        self._met.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a wish to stop, which the block may honour when it is safe; one that is left is honoured at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = self._settled
        if self.asked:
            self._leave_now()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """A wish to stop, Ctrl-C too, is how the block regularly ends: it sees it in ``asked`` and comes to its end.

        The command goes on after it, and what comes later is taken no notice of.
        """
        before = signal.getsignal(signal.SIGINT)
        self._held = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            if self.asked:
                self.settle()
            else:
                self._held = self._settled
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)

    def settle(self) -> None:
        """Take no notice from now on, to the process's last moment: the work is done, or its end is decided."""
        self._settled = self._held = True
        if self._installed:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a handler would be gone while Python ends

    def _note(self, number: int, _: Any) -> None:
        self.asked = signal.Signals(number).name

    def _watch(self, reader: int) -> None:
        while True:
            for number in os.read(reader, 64):
                if number in _SIGNALS:
                    self._note(number, None)
            if self.asked and not self._met.is_set() and _has_peers():
                self._met.wait(_MEETING)
            if self.asked and not self._held:
                self._leave_now()

    def _leave_now(self) -> None:
        with self._leaving:
            self.leave(
                f"stopped by {self.asked} while {self.doing}; what was saved stays, start the same command again to "
                "go on"
            )


def _has_peers() -> bool:
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in _SIZES)


def _forget() -> None:
    """In a forked process: signals mean what they mean by default."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


STOP = StopSignals()  # of this process
