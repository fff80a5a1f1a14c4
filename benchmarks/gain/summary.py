"""What the finished runs of an experiment say: scores, the control of each budget, gains over it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gain.experiment import CONTROL, Experiment
from benchmarks.gain.intervals import Interval, best_mean, interval, paired
from benchmarks.gain.plan import LABELS, OWN_SCORE, QUALITY, ArmRun, Plan
from benchmarks.results import HASH
from core.config.explain import did_you_mean
from core.datasets.pseudo import PSEUDO
from core.decode import read_json
from core.errors import UserError
from core.metrics import EvaluationResult

__all__ = ["Gain", "Line", "Score", "Summary", "answers", "teacher_interval"]

_NOT_IDENTITY = {"title", "world", "seeds", "budgets", "shown", "metric"}  # every score is kept


@dataclass(frozen=True)
class Score:
    """What one network reached under one view.

    Attributes:
        miou, in_view, out_of_view: percent; None where there are no such points. iou: percent by class.
        commit: of the code that trained it.
    """

    arm: str
    part: float
    budget: str
    seed: int
    view: str
    miou: float
    in_view: float | None
    out_of_view: float | None
    iou: dict[str, float | None]
    commit: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Line:
    """An arm of one length: what the rows of tables are about."""

    arm: str
    part: float
    control: bool

    @property
    def name(self) -> str:
        """What a table calls it."""
        return self.arm if self.part == 1 else f"{self.arm}, {self.part:g} of the steps"


@dataclass(frozen=True)
class Gain:
    """A line less another, paired by seed, in the experiment's metric."""

    line: Line
    over: str
    budget: str
    view: str
    difference: Interval


class Summary:
    """The scores there are so far.

    Args:
        plan: whose finished jobs are read.

    Attributes:
        scores: all. lines: arms and lengths in the order of the experiment. budgets, views: their names.
        teachers: by budget, what the teachers score, by seed. quality: by budget and seed, of ``pseudo_quality.py``.
        pseudo: by arm, budget and seed, the report of ``prepare_pseudo_labels.py``.
        identity: digest of the experiment, whatever its seeds, its budgets and the place of its world.
    """

    def __init__(self, plan: Plan) -> None:
        self.experiment = plan.experiment
        self.identity = _identity(plan.experiment)
        self.scores = [score for run in plan.runs for score in _scores_of(run)]
        lines = {Line(run.arm, run.part, run.control): None for run in plan.runs}
        self.lines = list(lines)
        self.budgets = list(dict.fromkeys(run.budget for run in plan.runs))
        self.views = list(plan.experiment.views)
        self.teachers: dict[str, dict[int, float]] = {}
        self.quality: dict[str, dict[int, dict[str, Any]]] = {}
        self.pseudo: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        for run in plan.runs:
            self._read_pseudo(run)
        for teacher in plan.teachers:
            score = teacher.training.folder / OWN_SCORE
            if teacher.training.done and score.is_file():
                of_budget = self.teachers.setdefault(teacher.budget, {})
                value = self._measured(EvaluationResult.read(score))
                if value is not None:
                    of_budget[teacher.seed] = 100 * value
            judged = teacher.quality
            if judged is not None and judged.done:
                found = read_json(judged.folder / QUALITY, dict[str, Any])
                self.quality.setdefault(teacher.budget, {})[teacher.seed] = found

    def values(self, line: Line, budget: str, view: str) -> dict[int, float]:
        """The metric by seed, percent; without the seeds on whose scans it is not defined."""
        wanted = (line.arm, line.part, budget, view)
        found = {}
        for score in self.scores:
            value = self._measured(score)
            if value is not None and (score.arm, score.part, score.budget, score.view) == wanted:
                found[score.seed] = value
        return found

    def _measured(self, score: Score | EvaluationResult) -> float | None:
        """The experiment's metric, in the unit of what it is read from; None = no point says anything about it.

        Raises:
            UserError: it is of a class that there is not.
        """
        metric = self.experiment.metric
        if metric == "miou":
            return score.miou
        name = metric.removeprefix("iou/")
        if name not in score.iou:
            raise UserError(
                f"'{name}' is no class of these runs",
                where="the experiment's key 'metric'",
                cure=did_you_mean(name, list(score.iou), "Classes are"),
            )
        return score.iou[name]

    def parts(self, line: Line, budget: str, view: str, part: str) -> dict[int, float]:
        """``in_view`` or ``out_of_view`` by seed, of those that have it."""
        wanted = (line.arm, line.part, budget, view)
        found = {}
        for score in self.scores:
            value = getattr(score, part)
            if value is not None and (score.arm, score.part, score.budget, score.view) == wanted:
                found[score.seed] = value
        return found

    def control(self, budget: str) -> Line | None:
        """The control of the greatest mean over seeds, by the first view; None = none is finished.

        The choice is made on the scores that are compared, which favours the control.
        """
        lines = [line for line in self.lines if line.control]
        best = best_mean([self.values(line, budget, self.views[0]) for line in lines])
        return None if best is None else lines[best]

    def reference(self, name: str, budget: str) -> Line | None:
        """The line that ``against`` means."""
        if name == CONTROL:
            return self.control(budget)
        return next((line for line in self.lines if (line.arm, line.part) == (name, 1)), None)

    def gain(self, line: Line, over: str, budget: str, view: str) -> Gain | None:
        """A line less what it is compared with; None = there is nothing to compare."""
        other = self.reference(self.experiment.counterpart(over, line.arm), budget)
        if other is None or other == line:
            return None
        difference = paired(self.values(line, budget, view), self.values(other, budget, view))
        return None if difference is None else Gain(line, over, budget, view, difference)

    def gains(self) -> Iterator[Gain]:
        """Of all lines that are no controls, over all that they are compared with."""
        for budget in self.budgets:
            for view in self.views:
                for line in self.lines:
                    if line.control:
                        continue
                    for over in self.experiment.against:
                        gain = self.gain(line, over, budget, view)
                        if gain is not None:
                            yield gain

    def class_gains(self, line: Line, budget: str) -> dict[str, Interval]:
        """Difference of each class's IoU to the control's, by the first view."""
        control = self.control(budget)
        if control is None or control == line:
            return {}
        ours, theirs = self._classes(line, budget), self._classes(control, budget)
        gains = {}
        for name, values in ours.items():
            difference = paired(values, theirs.get(name, {}))
            if difference is not None:
                gains[name] = difference
        return gains

    def _classes(self, line: Line, budget: str) -> dict[str, dict[int, float]]:
        """IoU by class and seed."""
        found: dict[str, dict[int, float]] = {}
        wanted = (line.arm, line.part, budget, self.views[0])
        for score in self.scores:
            if (score.arm, score.part, score.budget, score.view) == wanted:
                for name, value in score.iou.items():
                    if value is not None:
                        found.setdefault(name, {})[score.seed] = value
        return found

    def _read_pseudo(self, run: ArmRun) -> None:
        """Take in how right the labels are that an arm's unlabelled scans were given."""
        if run.pseudo is not None and run.pseudo.done:
            made = read_json(run.pseudo.folder / LABELS / PSEUDO, dict[str, Any])
            of_arm = self.pseudo.setdefault(run.arm, {})
            of_arm.setdefault(run.budget, {})[run.seed] = made["report"]

    @property
    def commits(self) -> list[str]:
        """Of the code that trained what is compared, short."""
        found = {HASH.sub(r"\1", score.commit) for score in self.scores if score.commit}
        return sorted(found)

    def to_json(self) -> dict[str, Any]:
        """Every score, and what is made of them."""
        controls = {}
        for budget in self.budgets:
            line = self.control(budget)
            controls[budget] = None if line is None else line.name
        gains = []
        for gain in self.gains():
            value = {"arm": gain.line.name, "over": gain.over, "budget": gain.budget}
            gains.append(value | {"view": gain.view} | asdict(gain.difference))
        return {
            "title": self.experiment.title,
            "experiment": self.identity,
            "steps": self.experiment.steps,
            "controls": controls,
            "teachers": self.teachers,
            "answers": self.quality,
            "pseudo_labels": self.pseudo,
            "gains": gains,
            "commits": self.commits,
            "scores": [asdict(score) for score in self.scores],
        }


def _identity(experiment: Experiment) -> str:
    named = experiment.model_dump(mode="json", exclude=_NOT_IDENTITY)
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def _scores_of(run: ArmRun) -> Iterator[Score]:
    """Of the views that are scored already."""
    for view, (job, name) in run.scores.items():
        if not job.done:
            continue
        result = EvaluationResult.read(job.folder / name)
        views = {part: 100 * confusion.miou() for part, confusion in result.by_subset.items()}
        yield Score(
            run.arm,
            run.part,
            run.budget,
            run.seed,
            view,
            100 * result.miou,
            views.get("in view"),
            views.get("out of view"),
            {name: None if iou is None else 100 * iou for name, iou in result.iou.items()},
            run.training.record.get("commit", ""),
            run.training.record.get("seconds", 0.0),
        )


def teacher_interval(summary: Summary, budget: str) -> Interval | None:
    """What the teachers of a budget score themselves."""
    values = summary.teachers.get(budget)
    return interval(values) if values else None


def answers(summary: Summary, budget: str) -> list[tuple[str, dict[str, Interval]]]:
    """Coverage, accuracy and mIoU (percent) of what unlabelled scans are told, by who tells it and how sure he is."""
    rows = []
    by_seed = summary.quality.get(budget, {})
    for place, threshold in enumerate(summary.experiment.thresholds):
        found = {seed: judged["thresholds"][place] for seed, judged in by_seed.items()}
        rows.append((f"the teacher, confidence {threshold:g}", _percentages(found)))
    for arm, budgets in summary.pseudo.items():
        rows.append((f"pseudo-labels of {arm}", _percentages(budgets.get(budget, {}))))
    return [row for row in rows if row[1]]


def _percentages(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Interval]:
    """The shares over the seeds, by name, as far as they are known."""
    columns: dict[str, dict[int, float]] = {}
    for seed, found in by_seed.items():
        for name in ("coverage", "accuracy", "miou"):
            if found[name] is not None:
                columns.setdefault(name, {})[seed] = 100 * found[name]
    return {name: interval(values) for name, values in columns.items()}
