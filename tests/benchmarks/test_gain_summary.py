"""What the benchmark of gains makes of finished runs: the control, gains, records, the page."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import pseudo_quality
from benchmarks.gain.elsewhere import take_in
from benchmarks.gain.experiment import read_experiment
from benchmarks.gain.page import write_page
from benchmarks.gain.plan import OWN_SCORE, QUALITY, Plan
from benchmarks.gain.summary import Line, Summary, answers
from benchmarks.gain.tables import print_summary, write_records
from benchmarks.results import read_table
from core.config import load_config
from core.contracts import Points, Scan
from core.datasets.pseudo import PSEUDO
from core.decode import read_json
from core.engine.score.segmenter import Prediction
from core.errors import UserError
from core.io import write_json
from core.metrics import EvaluationResult

REPO = Path(__file__).resolve().parents[2]
EXPERIMENT = """
title: Test
steps: 8
seeds: [0, 1]
budgets: [{fraction: 0.5, by: keyframe}]
unlabelled: {dataset.unlabelled: rest}
teacher: {config: configs/synthetic/teacher.yaml, steps: 20}
against: [control, ema]
control_parts: [0.5, 1]
thresholds: [0.5]
arms:
  labels: {config: configs/synthetic/student_lidar.yaml, control: true}
  balanced: {config: configs/synthetic/student_lidar.yaml, control: true, set: {criterion.w_balanced: 1}}
  ema: {config: configs/synthetic/few_labels.yaml, set: {teacher.source: ema, train.ema: 0.9}}
  live: {config: configs/synthetic/few_labels.yaml, unlabelled: true, teacher: live}
  poses: {config: configs/synthetic/student_lidar.yaml, unlabelled: true, pseudo: poses}
"""
RIGHT = {  # points of class "a" that are right, of 100, by arm, part and seed
    ("labels", 0.5): (60, 10),
    ("labels", 1.0): (30, 30),
    ("balanced", 0.5): (38, 44),  # the best mean, though labels were best once
    ("balanced", 1.0): (36, 42),
    ("ema", 1.0): (50, 54),
    ("live", 1.0): (70, 80),
    ("poses", 1.0): (40, 40),
}


def miou(right: int) -> float:
    """Percent, of the two classes of :func:`result`."""
    return 50 * (right / 100 + 100 / (200 - right))


def result(right: int) -> EvaluationResult:
    """A score in which so many of the hundred points of "a" are right and all of "b"."""
    return EvaluationResult(
        dataset="d", split="val", classes=("ignore", "a", "b"),
        confusion=[[0, 0, 0], [0, right, 100 - right], [0, 0, 100]],
        ranges={}, num_scans=1, num_points=200, seconds=0.0, checkpoint="", checkpoint_sha256="", command="",
    )  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """All jobs of the experiment are done."""
    path = tmp_path / "test.yaml"
    path.write_text(EXPERIMENT)
    experiment = read_experiment(str(path))
    plan = Plan(experiment, list(experiment.arms), tmp_path)
    for run in plan.runs:
        finish(run.training.folder, result(RIGHT[run.arm, run.part][run.seed]))
        run.training.finish(1.0, {"commit": 8 * "abcde"})
        if run.pseudo is not None:
            report = {"coverage": 0.6, "accuracy": 0.9, "miou": 0.5}
            write_json(run.pseudo.folder / "labels" / PSEUDO, {"report": report})
            run.pseudo.finish(1.0, {"commit": 8 * "abcde"})
    for teacher in plan.teachers:
        finish(teacher.training.folder, result(90))
        teacher.training.finish(1.0, {"commit": 8 * "abcde"})
        assert teacher.quality is not None
        row = {"threshold": 0.5, "coverage": 0.75, "accuracy": 0.875, "miou": None}
        write_json(teacher.quality.folder / QUALITY, {"thresholds": [row]})
        teacher.quality.finish(1.0, {"commit": 8 * "abcde"})
    return plan


def finish(folder: Path, score: EvaluationResult) -> None:
    write_json(folder / OWN_SCORE, score.to_json())


def test_the_control_is_the_best_mean_and_gains_are_paired(plan: Plan) -> None:
    summary = Summary(plan)
    control = summary.control("50 %")
    assert control == Line("balanced", 0.5, True)
    gains = {(gain.line.arm, gain.over): gain.difference for gain in summary.gains()}
    arms = {("ema", "control"), ("live", "control"), ("live", "ema")}
    assert gains.keys() == arms | {("poses", "control"), ("poses", "ema")}
    expected = {0: miou(70) - miou(38), 1: miou(80) - miou(44)}
    assert gains["live", "control"].values == pytest.approx(expected)
    assert gains["live", "ema"].values == pytest.approx(
        {0: miou(70) - miou(50), 1: miou(80) - miou(54)}
    )
    by_class = summary.class_gains(Line("live", 1.0, False), "50 %")
    assert by_class["a"].values == pytest.approx({0: 32.0, 1: 36.0})
    assert summary.teachers["50 %"] == pytest.approx({0: miou(90), 1: miou(90)})
    (_, columns), (_, given) = answers(summary, "50 %")
    assert given["coverage"].mean == 60.0
    assert columns.keys() == {"coverage", "accuracy"}
    assert columns["accuracy"].mean == 87.5


def test_a_class_may_be_what_is_compared(plan: Plan, tmp_path: Path) -> None:
    by_mean = Summary(plan)
    plan.experiment = plan.experiment.model_copy(update={"metric": "iou/a"})
    summary = Summary(plan)
    assert summary.identity == by_mean.identity  # every score is kept, whatever is compared
    assert summary.values(Line("live", 1.0, False), "50 %", "all") == pytest.approx({0: 70, 1: 80})
    assert summary.teachers["50 %"] == pytest.approx({0: 90, 1: 90})
    console = Console(width=200, file=io.StringIO(), record=True)
    print_summary(summary, console)
    assert "IoU of a, %" in console.export_text()
    assert "IoU of a on held-out scenes" in write_page(summary, tmp_path / "page").read_text()
    plan.experiment = plan.experiment.model_copy(update={"metric": "iou/aa"})
    with pytest.raises(UserError, match=r"'aa' is no class.*'a'"):
        Summary(plan)


def of_seed(plan: Plan, seed: int, path: Path) -> Summary:
    """The summary of one seed, and in ``path`` what ``--json`` would write of it."""
    alone = Plan(
        plan.experiment.model_copy(update={"seeds": (seed,)}),
        list(plan.experiment.arms),
        path.parent,
    )
    summary = Summary(alone)
    write_json(path, summary.to_json())
    return summary


def test_seeds_of_two_machines_are_those_of_one(plan: Plan, tmp_path: Path) -> None:
    whole = Summary(plan)
    first = of_seed(plan, 0, tmp_path / "0.json")
    of_seed(plan, 1, tmp_path / "1.json")
    take_in(first, [tmp_path / "1.json", tmp_path / "0.json"])  # its own are known twice, and equal
    assert sorted(map(str, first.scores)) == sorted(map(str, whole.scores))
    assert first.teachers == whole.teachers
    assert list(map(str, first.gains())) == list(map(str, whole.gains()))
    assert answers(first, "50 %") == answers(whole, "50 %")


def test_scores_of_elsewhere_that_do_not_fit(plan: Plan, tmp_path: Path) -> None:
    summary = of_seed(plan, 0, tmp_path / "0.json")
    stored = read_json(tmp_path / "0.json", dict[str, Any])
    stored["scores"][0]["miou"] += 1.0
    write_json(tmp_path / "other.json", stored)
    with pytest.raises(UserError, match=r"labels, 50 % of the labels, seed 0.*another score"):
        take_in(summary, [tmp_path / "other.json"])
    stored["experiment"] = "0" * 16
    write_json(tmp_path / "other.json", stored)
    with pytest.raises(UserError, match="another experiment"):
        take_in(summary, [tmp_path / "other.json"])
    write_json(tmp_path / "other.json", {"title": "Test"})
    with pytest.raises(UserError, match=r"other\.json"):
        take_in(summary, [tmp_path / "other.json"])


def test_what_is_not_done_is_left_out(plan: Plan) -> None:
    """A control with one seed less is no control; a gain is over the seeds that both have."""
    for run in plan.runs:
        missing = (run.arm, run.part, run.seed) in {("balanced", 0.5, 1), ("live", 1.0, 0)}
        if missing or run.arm == "poses":
            (run.training.folder / "done.json").unlink()
    summary = Summary(plan)
    assert summary.control("50 %") == Line("balanced", 1.0, True)
    gains = {(gain.line.arm, gain.over): gain.difference for gain in summary.gains()}
    assert gains["live", "control"].values == pytest.approx({1: miou(80) - miou(42)})
    assert gains["live", "control"].half is None
    assert ">poses<" not in write_page(summary, plan.folder / "page").read_text()


def test_tables_say_what_the_scores_are(plan: Plan, tmp_path: Path) -> None:
    summary = Summary(plan)
    console = Console(width=200, record=True, quiet=True)
    print_summary(summary, console)
    path = tmp_path / "gain.json"
    write_records(summary, path)
    write_records(summary, path)  # rows are replaced
    rows = {record.row: record.values for record in read_table(path).records}
    assert len(rows) == 7 + 1 + 2 + 3
    assert "balanced, 0.5 of the steps (control at 50 %)" in rows
    live = rows["live"]
    assert live["50 % of labels"] == [round(miou(70), 1), round(miou(80), 1)]
    mean = np.mean([miou(70) - miou(38), miou(80) - miou(44)])
    assert live["50 % of labels, less control"].mean == pytest.approx(mean, abs=0.05)
    right = rows["unlabelled scans, the teacher, confidence 0.5: accuracy (%)"]["50 % of labels"]
    assert (right.mean, right.spread) == (87.5, 0.0)


def test_a_page_shows_every_arm(plan: Plan, tmp_path: Path) -> None:
    text = write_page(Summary(plan), tmp_path / "page").read_text()
    assert all(name in text for name in ("live", "ema", "balanced, 0.5 of the steps"))
    assert (tmp_path / "page" / "curves.png").read_bytes().startswith(b"\x89PNG")


class SureOfSome:
    """Answers class 1 everywhere, of the first half of the points with probability 0.9, else 0.6."""

    class labels:
        classes = ("ignore", "a", "b")

    def predict(self, points: Points, sensor: object) -> Prediction:
        count = len(points)
        labels = np.ones(count, np.uint8)
        probabilities = np.zeros((count, 3), np.float32)
        probabilities[:, 1] = np.where(np.arange(count) < count // 2, 0.9, 0.6)
        return Prediction(labels, probabilities, self.labels.classes, np.zeros((count, 3)), labels)


def test_answers_are_judged_by_threshold() -> None:
    table = Points(np.zeros((4, 3), np.float32))
    scan = Scan("s", table)
    truth = np.array([1, 1, 1, 2], np.uint8)
    found = pseudo_quality.judge(SureOfSome(), iter([(scan, truth), (scan, None)]), [0.0, 0.7])
    assert (found["scans"], found["points"]) == (2, 8)
    whole, sure = found["thresholds"]
    assert (whole["coverage"], whole["accuracy"]) == (1.0, 0.75)
    assert whole["miou"] == pytest.approx((3 / 4 + 0) / 2)
    assert (sure["coverage"], sure["accuracy"], sure["miou"]) == (0.5, 1.0, 1.0)


def test_pseudo_labels_of_the_recipe_are_not_waited_for(
    tiny_nuscenes: Path, tmp_path: Path
) -> None:
    config = load_config(REPO / "configs" / "synthetic" / "few_labels.yaml")
    wanted = {
        "root": str(tiny_nuscenes),
        "labelled": {"fraction": 0.5},
        "unlabelled": "rest",
        "pseudo_labels": str(tmp_path / "not_yet"),
    }
    config.merge(wanted, "the test", "dataset")
    scans = list(pseudo_quality.unlabelled_scans(config))
    assert scans
    for scan, truth in scans:
        assert truth is not None and len(truth) == np.count_nonzero(scan.keyframe)


def test_unlabelled_scans_have_the_columns_that_the_network_reads(
    tiny_nuscenes: Path, tmp_path: Path
) -> None:
    config = load_config(REPO / "configs" / "synthetic" / "few_labels.yaml")
    wanted = {"root": str(tiny_nuscenes), "labelled": {"fraction": 0.5}, "unlabelled": "rest"}
    config.merge(wanted, "the test", "dataset")
    for scan, _ in pseudo_quality.unlabelled_scans(config):
        count = np.count_nonzero(scan.keyframe)
        np.save(tmp_path / f"{scan.token}.npy", np.arange(count, dtype=np.float32))
    place = os.path.relpath(tmp_path, tiny_nuscenes)
    config.merge({"columns": {"number": {"file": f"{place}/{{token}}.npy"}}}, "the test", "dataset")
    for scan, truth in pseudo_quality.unlabelled_scans(config):
        assert truth is not None
        assert scan.points["number"][scan.keyframe].tolist() == list(range(len(truth)))
