"""Jobs of the benchmark of gains: what arms share, what names a run, how a stopped benchmark goes on."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import until

import benchmarks.distillation_gain as script
from benchmarks.gain import running
from benchmarks.gain.experiment import EXPERIMENTS, read_experiment
from benchmarks.gain.plan import ArmRun, Plan
from benchmarks.gain.running import run_jobs
from benchmarks.gain.steps import Job, Made
from core.config import load_config
from core.datasets import DATASETS
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import build_trainer
from core.errors import UserError
from core.io import write_json

EXPERIMENT = """
title: Test
steps: 8
seeds: [0, 3]
budgets: [{fraction: 0.5, by: keyframe}, null]
unlabelled: {dataset.unlabelled: rest}
teacher: {config: configs/synthetic/teacher.yaml, steps: 20}
against: [control, live]
arms:
  labels: {config: configs/synthetic/student_lidar.yaml, control: true}
  live: {config: configs/synthetic/few_labels.yaml, unlabelled: true, teacher: live}
  cached: {config: configs/synthetic/few_labels.yaml, unlabelled: true, teacher: cached}
"""
TOY = """
num_epochs: 1
batch_size: 2
workers_per_gpu: 0
dataset: {name: toy, scans: 6, labelled: {fraction: 0.34}}
data: {voxel_size: 0.5}
model: {name: minkunet, cr: 0.1}
"""
SCRIPT = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
with open(folder.parent / "calls.txt", "a") as calls:
    calls.write(folder.name + "\\n")
sys.exit((folder.parent / "broken").exists() and "--train.seed" in sys.argv)
"""


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(EXPERIMENT)
    return path


def planned(path: Path, *arms: str) -> Plan:
    experiment = read_experiment(str(path))
    return Plan(experiment, arms or list(experiment.arms), path.parent / "runs")


def settings(run: ArmRun) -> dict[str, object]:
    return dict(run.training.settings)


def test_arms_are_paired_by_seed(experiment_file: Path) -> None:
    """Of one seed and budget all trainings share seed, labelled scans, batch and, but for controls, the steps."""
    plan = planned(experiment_file)
    assert len(plan.runs) == 2 * 2 * (3 + 2)
    for budget in ("50 %", "100 %"):
        for seed in (0, 3):
            runs = [run for run in plan.runs if (run.budget, run.seed) == (budget, seed)]
            shared = [
                [settings(run)[key] for key in ("train.seed", "dataset.labelled")] for run in runs
            ]
            assert all(values == shared[0] for values in shared) and shared[0][0] == seed
            steps = {(run.arm, run.part): settings(run)["train.steps"] for run in runs}
            assert steps.pop(("labels", 0.25)) == 2 and steps.pop(("labels", 0.5)) == 4
            assert set(steps.values()) == {8}
    drawn = {run.seed: settings(run)["dataset.labelled"] for run in plan.runs[:10]}
    assert drawn[0] == {"fraction": 0.5, "by": "keyframe", "seed": 0, "file": None}
    assert drawn[3] == {"fraction": 0.5, "by": "keyframe", "seed": 3, "file": None}
    assert settings(plan.runs[-1])["dataset.labelled"] is None


def test_arms_of_a_seed_begin_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supervised training, and a student with unlabelled scans that its own average teaches."""
    monkeypatch.setitem(DATASETS, "toy", "toys:ToyReader")
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    unlabelled = ["--dataset.unlabelled", "rest", "--teacher.source", "ema", "--train.ema", "0.9"]
    student = ["--distill", "{name: u2mkd, w_feat: 0, w_align: 0, w_pixel: 0}", *unlabelled]
    first, second, third = (
        initial_weights(path, tmp_path, *words)
        for words in ([], student, [*student, "--train.seed", "1"])
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


def initial_weights(path: Path, folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """Of the network to be deployed, before its first step."""
    context = Context.open(load_config(path, list(overrides)), World())
    train_set = context.dataset("train", training=True)
    return build_trainer(context, train_set, RunDir(folder / "run"), None).method.deployed_state()


def test_jobs_come_after_what_they_need(experiment_file: Path) -> None:
    plan = planned(experiment_file)
    digests = [job.digest for job in plan.jobs]
    assert len(set(digests)) == len(digests)
    for place, job in enumerate(plan.jobs):
        assert all(made.job.digest in digests[:place] for made in job.uses)
    teachers = {run.budget: run.training.folder for run in plan.teachers if run.seed == 0}
    live = next(run for run in plan.runs if run.arm == "live")
    assert f"--teacher_pretrain {teachers['50 %']}" in " ".join(live.training.command)
    database = next(job for job in plan.jobs if job.script == "prepare_inst_database.py")
    assert dict(database.settings)["dataset.labelled"] == settings(live)["dataset.labelled"]


def test_a_network_of_another_arm_labels(experiment_file: Path) -> None:
    """The very run that is scored as that arm, of the same seed, after all its steps."""
    arm = "config: configs/synthetic/student_lidar.yaml, unlabelled: true, pseudo: teacher"
    taught = f"  self: {{{arm}, labeller: labels, votes: 6}}\n"
    experiment_file.write_text(EXPERIMENT + taught)
    plan = planned(experiment_file)
    labelled = [run for run in plan.runs if run.arm == "self" and run.pseudo is not None]
    assert [(run.seed, run.budget) for run in labelled] == [(0, "50 %"), (3, "50 %")]
    for run in labelled:
        alike = [r for r in plan.runs if (r.seed, r.budget, r.part) == (run.seed, run.budget, 1)]
        (labeller,) = [other.training for other in alike if other.arm == "labels"]
        assert run.pseudo is not None and run.pseudo.uses == (Made("checkpoint", labeller),)
        assert run.pseudo.options[-2:] == ("--votes", "6")


def test_a_run_is_known_by_what_it_depends_on(experiment_file: Path) -> None:
    """Other names are the same run; another teacher, length or key is another one, down to the students."""
    first = {run.arm: run.training for run in planned(experiment_file).runs if run.part == 1}
    renamed = EXPERIMENT.replace("  live:", "  renamed:").replace("control, live", "control")
    experiment_file.write_text(renamed)
    again = {run.arm: run.training for run in planned(experiment_file).runs if run.part == 1}
    assert again["renamed"].digest == first["live"].digest
    assert again["renamed"].folder.name.startswith("renamed-")
    first["live"].folder.mkdir(parents=True)
    found = {run.arm: run.training for run in planned(experiment_file).runs if run.part == 1}
    assert found["renamed"].folder == first["live"].folder
    experiment_file.write_text(EXPERIMENT.replace("steps: 20", "steps: 21"))
    other = {run.arm: run.training for run in planned(experiment_file).runs if run.part == 1}
    assert other["live"].digest != first["live"].digest
    assert other["labels"].digest == first["labels"].digest


def test_worlds_are_known_by_what_they_were_made_from(tmp_path: Path) -> None:
    jobs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_json(tmp_path / name / "synthetic.json", {"seed": seed})
        root = (("dataset.root", str(tmp_path / name)),)
        jobs.append(
            Job("x", tmp_path, "s.py", Path("configs/synthetic/spvcnn.yaml"), settings=root)
        )
    same, alike, other = (job.digest for job in jobs)
    assert same == alike != other


def fake_jobs(folder: Path) -> list[Job]:
    """A teacher and its student, by a script that writes down its calls."""
    program = folder / "train.py"
    program.write_text(SCRIPT)
    config = Path("configs/synthetic/spvcnn.yaml")
    options = ("--run-dir", "{folder}")
    teacher = Job("teacher", folder, str(program), config, options)
    student = Job(
        "student",
        folder,
        str(program),
        config,
        options,
        (("train.seed", 1),),
        (Made("t", teacher),),
    )
    return [teacher, student]


def calls(folder: Path) -> list[str]:
    return [line.split("-")[0] for line in (folder / "calls.txt").read_text().splitlines()]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_stopped_benchmark_goes_on(tmp_path: Path, at_once: int) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(UserError, match=r"ended with code 1: python .*train\.seed 1"):
        run_jobs(fake_jobs(tmp_path), at_once)
    assert calls(tmp_path) == ["teacher", "student"]
    (tmp_path / "broken").unlink()
    run_jobs(fake_jobs(tmp_path), at_once)
    assert calls(tmp_path) == ["teacher", "student", "student"]
    run_jobs(fake_jobs(tmp_path), at_once)
    assert calls(tmp_path) == ["teacher", "student", "student"]
    assert fake_jobs(tmp_path)[1].record["line"].startswith("python ")


def test_a_signal_stops_the_command_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left running, and nothing is done that was not finished."""
    teacher, student = fake_jobs(tmp_path)
    Path(teacher.script).write_text("import time; print('begun', flush=True); time.sleep(60)")
    monkeypatch.setattr(running, "_TICK", 0.01)
    monkeypatch.setattr(running.STOP, "asked", "")
    log = teacher.folder / "output.log"

    def ask() -> None:
        until(lambda: log.is_file() and bool(log.read_text()))
        running.STOP.asked = "SIGTERM"

    threading.Thread(target=ask, daemon=True).start()
    began = time.perf_counter()
    with pytest.raises(SystemExit) as stopped:
        run_jobs([teacher, student], 1)
    assert stopped.value.code == 75 and time.perf_counter() - began < 30
    assert not teacher.done and not student.folder.exists()


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    job, _ = fake_jobs(tmp_path)
    write_json(job.folder / "done.json", {"identity": {"script": "another.py"}})
    with pytest.raises(UserError, match="made by another job"):
        _ = replace(job).done


def test_dry_run_lists_the_commands_and_runs_nothing(
    experiment_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = experiment_file.parent / "runs"
    words = ["x", str(experiment_file), "--dry-run", "--seeds", "3", "--fractions", "0.5"]
    words += ["--folder", str(folder), "--arms", "labels", "--", "--optimizer.lr", "0.5"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [
        "prepare_inst_database.py",
        "train_teacher.py",
        "benchmarks/pseudo_quality.py",
        *3 * ["train_teacher.py"],
    ]
    assert all(line.startswith("left  python ") for line in lines)
    assert [("--optimizer.lr 0.5" in line) for line in lines] == [False] * 3 + [True] * 3
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("against: [control, live]", "against: [contrl]"), "no arm 'contrl'"),
        (("control: true", "control: false"), "no arm is a control"),
        (
            ("teacher: {config: configs/synthetic/teacher.yaml, steps: 20}", ""),
            "the experiment none",
        ),
        (("steps: 8", "step: 8"), "did you mean 'steps'"),
        (("teacher: live}", "pseudo: teacher, labeller: labls}"), "'labls' is no arm"),
    ],
)
def test_what_is_wrong_in_an_experiment_is_told(
    experiment_file: Path, change: tuple[str, str], fault: str
) -> None:
    experiment_file.write_text(EXPERIMENT.replace(*change))
    with pytest.raises(UserError, match=fault):
        read_experiment(str(experiment_file))


def test_unknown_names_are_told_the_known_ones(experiment_file: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment 'unlabeled'.*Did you mean 'unlabelled'"):
        read_experiment("unlabeled")
    with pytest.raises(UserError, match=r"no arm 'livee'.*Did you mean 'live'"):
        planned(experiment_file, "livee")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_can_be_planned(path: Path, tmp_path: Path) -> None:
    experiment = read_experiment(path.stem)
    plan = Plan(experiment, experiment.shown or list(experiment.arms), tmp_path)
    assert plan.runs and all(job.line.startswith("python ") for job in plan.jobs)
