"""One writer per folder."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import exit_code, fork, until
from loguru import logger

from core import locks
from core.errors import UserError
from core.io import atomic_path
from core.locks import LOCK, sole_writer


def elsewhere(job: Callable[[], None]) -> int:
    """Do ``job`` in another process; 0 = it came to its end, 2 = a UserError, which is told in the folder."""

    def told() -> None:
        try:
            job()
        except UserError:
            os._exit(2)

    return exit_code(fork(told))


def enter(folder: Path) -> None:
    with sole_writer(folder, "--out"):
        pass


def test_another_process_is_kept_out_and_learns_who_holds_the_folder(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def job() -> None:
        try:
            enter(tmp_path / "run")
        except UserError as error:
            told.write_text(str(error))
            raise

    with sole_writer(tmp_path / "run", "--run-dir"):
        assert elsewhere(job) == 2
    text = told.read_text()
    assert f"process {os.getpid()} on {os.uname().nodename}" in text
    assert str(tmp_path / "run") in text and "another --out" in text
    assert elsewhere(job) == 0
    assert list((tmp_path / "run").iterdir()) == [], "nothing is left of a lock"


def test_one_process_may_take_it_twice(tmp_path: Path) -> None:
    with sole_writer(tmp_path, "x"):
        with sole_writer(tmp_path / ".." / tmp_path.name, "x"):
            pass
        assert elsewhere(lambda: enter(tmp_path)) == 2, "the outer one holds on"


def test_a_killed_holder_lets_go_although_its_workers_live(tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    def hold() -> None:
        with sole_writer(tmp_path / "run", "x"):
            fork(lambda: time.sleep(1))
            ready.touch()
            time.sleep(60)

    holder = fork(hold)
    until(ready.exists)
    os.kill(holder, signal.SIGKILL)
    assert exit_code(holder) == -signal.SIGKILL
    enter(tmp_path / "run")


def test_what_a_kill_left_half_written_is_cleared_below_the_folder_too(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoints"

    def killed() -> None:
        with atomic_path(inner / "a.pt") as temporary:
            temporary.write_bytes(b"half")
            os._exit(9)

    elsewhere(killed)
    (left,) = inner.iterdir()
    kept = inner / ".something.tmp"  # not as we name ours
    kept.touch()
    enter(tmp_path)
    assert not left.exists() and kept.exists()


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    lines: list[str] = []
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    enter(tmp_path)
    logger.remove(sink)
    assert len(lines) == 1 and "No locks available" in lines[0]
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        enter(tmp_path / "file" / "run")
