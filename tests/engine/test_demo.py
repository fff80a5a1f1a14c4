"""The demo: its plan, its commands, and two jobs side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import load_config
from core.engine import demo
from core.engine.demo import STEPS, Step, named, plan
from core.engine.run.run_dir import flatten
from core.errors import UserError
from core.io import write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two cores half as fast as those the steps were measured on, nothing done yet; where results would lie."""
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "_seconds_per_unit", lambda seconds: 2 * demo._UNIT)
    monkeypatch.setattr(demo, "usable_cores", lambda: 2)
    monkeypatch.setattr(demo, "native_bf16", lambda: False)
    return tmp_path


def make(root: Path, step: Step) -> None:
    for result in step.results:
        (root / result).parent.mkdir(parents=True, exist_ok=True)
        (root / result).touch()


def test_a_plan_counts_what_is_left_at_the_speed_of_this_machine(machine: Path) -> None:
    total = sum(step.minutes for step in STEPS)
    todo = plan()
    assert todo.minutes == pytest.approx(2 * total / 2**0.75)
    assert todo.first_score is not None and 0 < todo.first_score < 0.4 * todo.minutes
    assert "on 2 cores in fp32, the first score after" in str(todo)
    for step in STEPS[:3]:
        make(machine, step)
    rest = sum(step.minutes for step in STEPS[3:])
    assert plan().minutes == pytest.approx(2 * rest / 2**0.75) and plan().first_score is None


def test_two_students_are_done_when_both_are(machine: Path) -> None:
    students = STEPS[3]
    (machine / students.results[0]).parent.mkdir(parents=True)
    (machine / students.results[0]).touch()
    assert not students.done
    make(machine, students)
    assert students.done and not STEPS[4].done, "the report is made anew"


def test_the_last_line_tells_the_three_scores_and_the_gain(machine: Path) -> None:
    for name, miou in (("teacher", 60.5), ("no_teacher", 40.25), ("student", 50.0)):
        write_json(machine / demo.SCORES[name], {"miou": miou})
    line = demo._summary(90.0)
    assert line.startswith(
        "teacher 60.5, student without it 40.2, with it 50.0 mIoU (+9.8; one seed)"
    )
    assert line.endswith("1.5 minutes")


def test_this_machine_is_measured() -> None:
    assert 0 < demo._seconds_per_unit(0.0) < 10


def test_the_control_differs_from_the_student_in_the_teacher_alone() -> None:
    student, control = (
        flatten(load_config(ROOT / f"configs/synthetic/demo/{name}.yaml").tree)
        for name in ("student", "no_teacher")
    )
    differing = {key for key in student if student[key] != control.get(key)}
    assert student.keys() == control.keys() and differing == {"distill.w_kl"}


def test_scripts_of_the_steps_exist() -> None:
    for step in STEPS:
        for command in step.commands.values():
            assert (ROOT / command.split()[0]).is_file()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("12:30:00 data   20 scans\n", "12:30:00 student  data   20 scans\n"),
        ("12:30:00 student  epoch 1/8\n", "12:30:00 student  epoch 1/8\n"),
        ("mIoU 50.00\n", "student  mIoU 50.00\n"),
    ],
)
def test_a_line_bears_the_name_of_its_job_once(line: str, shown: str) -> None:
    assert named("student", line) == shown


def test_jobs_side_by_side_share_the_cores_and_bear_their_names(
    machine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "import os, sys; print(os.environ['OMP_NUM_THREADS']); print('loss', file=sys.stderr)"
    command = f'-c "{script}"'
    demo._run(Step("two", {"a": command, "b": command}, (), 0))
    assert sorted(capfd.readouterr().err.split("\n")) == ["", "a  1", "a  loss", "b  1", "b  loss"]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_failed_job_stops_the_demo(machine: Path, names: str) -> None:
    step = Step("bad", dict.fromkeys(names, "-c 'raise SystemExit(7)'"), (), 0)
    with pytest.raises(UserError, match="code 7") as caught:
        demo._run(step)
    assert str(caught.value.where).startswith("a: python -c") and "make demo" in caught.value.cure
