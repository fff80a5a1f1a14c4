"""What every command shares."""

from __future__ import annotations

import sys

import pytest

from core.engine.run.cli import run_command, with_config
from core.errors import UserError

CURE = "Write it with 'python prepare_inst_database.py CONFIG'."


def test_commands_in_errors_can_be_copied(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "my job.yaml",
        "--run-dir",
        "r",
        "--dataset.root",
        "/d",
        "--model.cr",
        "1",
        "data.paste.database=x",
    ]
    text = "python prepare_inst_database.py 'my job.yaml' --dataset.root /d data.paste.database=x'"
    assert text in with_config(CURE, words)
    assert with_config(CURE, ["--help"]) == CURE

    def fail() -> None:
        raise UserError("no database", cure=CURE)

    monkeypatch.setattr(sys, "argv", ["train_teacher.py", "a.yaml", "--dataset.root=/d"])
    with pytest.raises(SystemExit):
        run_command(fail)
    assert "prepare_inst_database.py a.yaml --dataset.root=/d'." in capsys.readouterr().err
