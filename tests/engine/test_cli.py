"""What every command shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config import Config, load_config
from core.datasets import build_dataset
from core.engine.run.checkpoint import find_checkpoint
from core.engine.run.cli import run_command, with_config
from core.errors import UserError
from core.labels import label_space

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


@pytest.mark.parametrize(
    "use",
    [
        lambda name: load_config(name),
        lambda name: find_checkpoint(Path(name), "--checkpoint"),
        lambda name: label_space(name),
        lambda name: build_dataset(Config({"dataset": {"name": "pandaset", "root": name}}), "val"),
    ],
)
def test_a_path_that_no_file_system_takes_is_one_paragraph(
    use: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run_command(lambda: use("y" * 5000) and None)
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert "error: " in told and len(told) < 600
