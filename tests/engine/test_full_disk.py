"""A full disk, wherever it is met: one paragraph, nothing half-written. A limit on file sizes stands for the disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.engine.run.cli import run_command
from core.engine.run.run_dir import RunDir, _LogFile
from core.engine.run.store import write_torch
from core.engine.train.callbacks import JSONLines, TensorBoard
from core.errors import UserError
from core.io import write_bytes


@pytest.fixture
def full() -> Iterator[None]:
    """No file grows beyond 2000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_whole_files(tmp_path: Path, full: None) -> None:
    for write in (
        lambda path: write_bytes(path, bytes(5000)),
        lambda path: write_torch(path, {"model": torch.zeros(5000)}),
    ):
        with pytest.raises(UserError, match=r"x: cannot write this file \(File too large\)"):
            write(tmp_path / "x")
        assert list(tmp_path.iterdir()) == []


def test_another_error_of_torch_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        write_torch(tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []


def trainer(step: int) -> SimpleNamespace:
    return SimpleNamespace(epoch_num=1, local_step=step, global_step=step)


def test_scalars_keep_whole_lines(tmp_path: Path, full: None) -> None:
    lines = JSONLines(RunDir(tmp_path))
    lines.set_trainer(trainer(0))
    with pytest.raises(UserError, match=r"scalars\.jsonl: cannot write"):
        for step in range(100):
            lines.trainer = trainer(step)
            lines._add_scalar("loss/total", 0.5)
            lines._trigger_step()
    lines.after_train()
    content = (tmp_path / "scalars.jsonl").read_text()
    assert content.endswith("}\n") and all(json.loads(line) for line in content.splitlines())


def test_tensorboard_s_thread(
    tmp_path: Path, full: None, capfd: pytest.CaptureFixture[str]
) -> None:
    before = threading.excepthook
    board = TensorBoard(RunDir(tmp_path), 0)
    board.set_trainer(trainer(0))
    with pytest.raises(UserError, match="tensorboard: cannot write"):
        for step in range(3000):
            board.trainer = trainer(step)
            board._add_scalar("loss/total", 0.5)
    board.after_train()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook == before


def test_the_log_ends_with_one_line(
    tmp_path: Path, full: None, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _LogFile(tmp_path / "log" / "x.log")
    for _ in range(100):
        log.write("a message of the run\n")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("the log ends here")


def test_what_else_is_written(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def main() -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as left:
        run_command(main)
    assert left.value.code == 2
    text = capsys.readouterr().err
    assert "standard output: cannot write this file (No space left on device)" in text
    assert "Traceback" not in text
