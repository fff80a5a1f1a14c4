"""A Python without the packages is told so in one paragraph, before anything else is imported."""

from __future__ import annotations

import sys

import pytest

from core import environment


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(environment, "missing_packages", lambda: list(names))


@pytest.mark.parametrize("script", [str(environment.ROOT / "train_teacher.py"), "-m"])
def test_a_command_without_packages_is_one_paragraph(monkeypatch, capsys, script) -> None:
    without(monkeypatch, "torch", "pydantic")
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys, "orig_argv", ["python3", "train_teacher.py", "my.yaml"])
    with pytest.raises(SystemExit) as leave:
        environment.check_packages()
    text = capsys.readouterr().err
    assert leave.value.code == 2 and text.startswith("error: LiDistill's packages are not in this")
    assert "no 'torch', 'pydantic'" in text and "setup" in text
    assert text.endswith(".venv/bin/python train_teacher.py my.yaml\n")


def test_a_program_gets_an_import_error_and_the_doctor_a_look(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/else.py"])
    assert environment.missing_packages() == []
    without(monkeypatch, "torch")
    with pytest.raises(ImportError, match="no 'torch'"):
        environment.check_packages()
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "core.doctor"])
    environment.check_packages()
