"""Experiments with pre-trainings: what is shared by protocols and budgets, what is compared with what."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gain.experiment import read_experiment
from benchmarks.gain.plan import OWN_SCORE, Plan
from benchmarks.gain.steps import Job, option_words
from benchmarks.gain.summary import Line, Summary
from core.config import load_config
from core.engine.run.experiment import Experiment
from core.errors import UserError
from core.io import write_json
from core.metrics import EvaluationResult

EXPERIMENT = """
title: Test
world: {root: data/some_world}
steps: 8
seeds: [0, 3]
budgets: [{fraction: 0.5, by: keyframe}, null]
set: {batch_size: 2, optimizer.lr: 0.1}
image: {config: configs/synthetic/image_network.yaml, steps: 30, seed: 0}
pretraining:
  ppkt: {config: configs/synthetic/slidr/ppkt.yaml, steps: 20}
  slidr: {config: configs/synthetic/slidr/minkunet.yaml, steps: 20, set: {train.ema: 0.9}}
protocols:
  lin: {config: configs/synthetic/slidr/probe.yaml, set: {optimizer.lr: 0.2}}
  ft: {config: configs/synthetic/slidr/finetune.yaml}
against: [random]
arms:
  random: {set: {train.init_from: null}}
  ppkt: {pretrained: ppkt}
  slidr: {pretrained: slidr, set: {optimizer.lr: 0.3}}
"""
RIGHT = {"random_lin": 10, "slidr_lin": 40, "ppkt_lin": 30, "random_ft": 60, "slidr_ft": 80}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "test.yaml"
    path.write_text(EXPERIMENT)
    experiment = read_experiment(str(path))
    return Plan(experiment, list(experiment.arms), tmp_path / "runs")


def begun_from(job: Job) -> dict[str, Job]:
    return {made.option: made.job for made in job.uses}


def test_one_pretraining_per_seed_serves_all_protocols_and_budgets(plan: Plan) -> None:
    assert len(plan.runs) == 2 * 2 * 3 * 2
    begun: dict[tuple[str, int], set[str]] = {}
    for run in plan.runs:
        uses = begun_from(run.training)
        assert ("train.init_from" in uses) == (not run.arm.startswith("random"))
        for job in uses.values():
            begun.setdefault((run.arm.split("_")[0], run.seed), set()).add(job.digest)
    assert {len(digests) for digests in begun.values()} == {1} and len(begun) == 4
    assert len(set().union(*begun.values())) == 4
    pretrainings = [job for job in plan.jobs if job.script == "pretrain.py"]
    assert len(pretrainings) == 4
    assert {dict(job.settings)["train.seed"] for job in pretrainings} == {0, 3}
    assert all(dict(job.settings)["dataset.root"] == "data/some_world" for job in pretrainings)
    assert not any("dataset.labelled" in dict(job.settings) for job in pretrainings)


def test_the_image_network_and_superpixels_are_made_once(plan: Plan) -> None:
    digests = [job.digest for job in plan.jobs]
    for place, job in enumerate(plan.jobs):
        assert all(made.job.digest in digests[:place] for made in job.uses)
    (image,) = [job for job in plan.jobs if job.config.stem == "image_network"]
    (superpixels,) = [job for job in plan.jobs if job.script == "prepare_superpixels.py"]
    assert "dataset.root" not in dict(image.settings)  # a world of its own
    for job in plan.jobs:
        uses = begun_from(job)
        if job.script == "pretrain.py":
            assert uses["distill.image.weights"] == image
            slidr = "slidr" in job.name
            assert ("dataset.planes.superpixels" in uses) == slidr
            if slidr:
                assert uses["dataset.planes.superpixels"] == superpixels
                assert dict(job.settings)["train.ema"] == 0.9
                weights = f"--distill.image.weights {image.folder}/checkpoints/best.pt"
                assert weights in " ".join(job.command)


def test_keys_of_the_arm_go_before_those_of_its_protocol(plan: Plan) -> None:
    rates = {run.arm: dict(run.training.settings)["optimizer.lr"] for run in plan.runs}
    assert rates == {
        "random_lin": 0.2,
        "ppkt_lin": 0.2,
        "slidr_lin": 0.3,
        "random_ft": 0.1,
        "ppkt_ft": 0.1,
        "slidr_ft": 0.3,
    }
    named = plan.experiment.named(["slidr", "random_ft", "nothing"])
    assert named == ["slidr_lin", "slidr_ft", "random_ft", "nothing"]


def result(right: int) -> EvaluationResult:
    """A score in which so many of the hundred points of one class are right."""
    return EvaluationResult(
        dataset="d", split="val", classes=("ignore", "a", "b"),
        confusion=[[0, 0, 0], [0, right, 100 - right], [0, 0, 0]],
        ranges={}, num_scans=1, num_points=100, seconds=0.0, checkpoint="", checkpoint_sha256="", command="",
    )  # fmt: skip


def test_arms_are_compared_with_that_of_their_protocol(plan: Plan) -> None:
    for run in plan.runs:
        if run.arm in RIGHT and run.budget == "50 %":
            score = result(RIGHT[run.arm] + run.seed)
            write_json(run.training.folder / OWN_SCORE, score.to_json())
            run.training.finish(1.0, {"commit": 8 * "abcde"})
    summary = Summary(plan)
    gains = {gain.line.arm: gain.difference.values for gain in summary.gains()}
    assert gains.keys() == {"slidr_lin", "ppkt_lin", "slidr_ft"}
    lines = {name: Line(name, 1.0, False) for name in RIGHT}
    for name, over in (("slidr_lin", "random_lin"), ("slidr_ft", "random_ft")):
        own, other = (summary.values(lines[arm], "50 %", "all") for arm in (name, over))
        assert gains[name] == pytest.approx({seed: own[seed] - other[seed] for seed in (0, 3)})
        assert gains[name][0] > 5


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("pretrained: slidr", "pretrained: sildr"), r"no pre-training 'sildr'.*'slidr'"),
        (("pretrained: slidr", "control: true"), "one of several protocols"),
        (("against: [random]", "against: [randm]"), "no arm 'randm'"),
        (
            ("configs/synthetic/slidr/probe.yaml,", "x.yaml, vtes: 3,"),
            r"'arms.random_lin.vtes'.*'votes'",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(EXPERIMENT.replace(*change))
    with pytest.raises(UserError, match=fault):
        read_experiment(str(path))


def test_the_shipped_commands_are_of_valid_configurations(tmp_path: Path) -> None:
    experiment = read_experiment("downstream")
    plan = Plan(experiment, list(experiment.arms), tmp_path)
    assert len(plan.runs) == 3 * 3 * 4 * 3
    first = {(job.script, job.config): job for job in plan.jobs}
    assert len(first) == 8
    for job in first.values():
        words = option_words(dict(job.settings))
        for made in job.uses:
            words += [f"--{made.option}", str(made.job.folder)]
        Experiment.from_config(load_config(job.config, words))
