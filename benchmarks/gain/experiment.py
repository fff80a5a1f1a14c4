"""An experiment as data: which arms are trained, on which labels, by which teacher, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from core.config import Config, Section, load_config
from core.config.explain import did_you_mean
from core.datasets.budget import LabelBudget
from core.errors import UserError

__all__ = [
    "CONTROL",
    "EXPERIMENTS",
    "ROOT",
    "Arm",
    "Experiment",
    "Training",
    "budget_name",
    "read_experiment",
]

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "benchmarks" / "experiments"
CONTROL = "control"  # the best of the arms that are controls
Overrides = dict[str, Any]  # dotted key of a configuration -> its value


class Arm(Section):
    """One way to train the student."""

    config: Path = Field(description="YAML of the training, from the project's root")
    set: Overrides = Field(default_factory=dict, description="keys of it that are others here")
    control: bool = Field(False, description="it competes to be the control")
    unlabelled: bool = Field(False, description="it sees the unlabelled scans, too")
    teacher: Literal["none", "live", "cached"] = Field(
        "none", description="the trained teacher: in every step, or what it once said of each scan"
    )
    pseudo: Literal["none", "poses", "teacher", "both"] = Field(
        "none", description="labels that prepare_pseudo_labels.py gives the unlabelled scans"
    )
    votes: int = Field(1, ge=1, description="passes of the teacher that decide each pseudo-label")
    labeller: str | None = Field(
        None, description="arm whose network labels in the teacher's place, after all its steps"
    )
    parts: tuple[float, ...] | None = Field(
        None,
        description="shares of the steps, each a run; null = all, and control_parts if a control",
    )
    scored: Overrides = Field(default_factory=dict, description="keys that evaluate.py is told")
    pretrained: str | None = Field(
        None, description="pre-training whose weights it begins with; null = as its YAML says"
    )
    protocol: str | None = Field(None, description="that it is trained by; given by 'protocols'")


class Training(Section):
    """How something is trained that arms build on."""

    config: Path = Field(description="YAML of the training")
    set: Overrides = Field(default_factory=dict, description="keys of it that are others here")
    steps: int = Field(ge=1, description="optimiser steps")
    seed: int | None = Field(None, ge=0, description="one for all; null = that of the arms")
    made_by: str | None = Field(None, description="command that writes a world of its own")


class Experiment(Section):
    """A table of arms that are trained alike, for each label budget and seed."""

    title: str = Field(description="what is measured, one line")
    world: Overrides = Field(
        default_factory=dict,
        description="keys of dataset in every job, e.g. root; {} = as in the YAML",
    )
    made_by: str | None = Field(None, description="command that writes the world")
    set: Overrides = Field(default_factory=dict, description="keys of all arms")
    unlabelled: Overrides = Field(
        default_factory=dict, description="keys that give an arm its unlabelled scans"
    )
    steps: int = Field(ge=1, description="optimiser steps of each arm, train.steps")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="train.seed of the runs")
    budgets: tuple[LabelBudget | None, ...] = Field(
        (None,), min_length=1, description="dataset.labelled; null = all labels"
    )
    draw: Literal["seed", "once"] = Field(
        "seed", description='labelled scans are drawn anew for each "seed" of the runs, or "once"'
    )
    teacher: Training | None = Field(
        None, description="of each label budget; null = no arm has one"
    )
    image: Training | None = Field(
        None,
        description="image network whose weights the pre-trainings learn from; null = as their YAML says",
    )
    pretraining: dict[str, Training] = Field(
        default_factory=dict, description="without labels, once per seed, by name"
    )
    protocols: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="keys of arms, e.g. config, by name: every arm is trained by each, as ARM_PROTOCOL; {} = as it is",
    )
    arms: dict[str, Arm] = Field(min_length=1, description="by name")
    shown: tuple[str, ...] = Field(
        (), description="arms that are run if not told otherwise; () = all"
    )
    more_arms: Path | None = Field(None, description="folder of YAML files that are arms by name")
    control_parts: tuple[float, ...] = Field((0.25, 0.5, 1.0), description="steps of the controls")
    against: tuple[str, ...] = Field(
        (CONTROL,), description="arms that the others are compared with; control = the best of them"
    )
    metric: str = Field(
        "miou",
        pattern=r"^(miou|iou/.+)$",
        description="what is compared: miou, or iou/CLASS, as in eval.select",
    )
    views: dict[str, Overrides] = Field(
        {"all": {}}, description="how networks are scored: keys of evaluate.py; the first counts"
    )
    thresholds: tuple[float, ...] = Field(
        (0.0, 0.5, 0.7, 0.9), description="confidences at which the teacher's answers are judged"
    )
    one_network: bool = Field(False, description="all arms deploy the same network: check it")

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            UserError: there is none.
        """
        if name in self.arms:
            return self.arms[name]
        folder = self.more_arms
        if folder is not None and (ROOT / folder / f"{name}.yaml").is_file():
            return Arm(config=folder / f"{name}.yaml", teacher="cached" if self.teacher else "none")
        more = "" if folder is None else f", or the files of {folder}"
        cure = did_you_mean(name, list(self.arms), "Arms are") + more
        raise UserError(f"there is no arm '{name}'", where="--arms", cure=cure)

    def named(self, names: Sequence[str]) -> list[str]:
        """Names of arms, where a name without a protocol stands for all of its arms."""
        found = []
        for name in names:
            of_protocols = [f"{name}_{protocol}" for protocol in self.protocols]
            known = [full for full in of_protocols if full in self.arms]
            found += [name] if name in self.arms else known or [name]
        return found

    @property
    def measured(self) -> str:
        """What tables and axes call the metric."""
        if self.metric == "miou":
            return "mIoU"
        return f"IoU of {self.metric.removeprefix('iou/')}"

    def counterpart(self, name: str, arm: str) -> str:
        """The arm that ``name`` in ``against`` means for an arm: the one of the same protocol."""
        known = self.arms.get(arm)
        if known is None or known.protocol is None:
            return name
        return f"{name}_{known.protocol}"

    def world_keys(self) -> Overrides:
        """``world`` as keys of a configuration."""
        return {f"dataset.{key}": value for key, value in self.world.items()}

    def parts(self, arm: Arm) -> tuple[float, ...]:
        """Shares of the steps that the arm is trained for."""
        if arm.parts is not None:
            return arm.parts
        return self.control_parts if arm.control else (1.0,)


def read_experiment(name: str) -> Experiment:
    """Read an experiment by its name in ``benchmarks/experiments``, or by its file.

    Raises:
        UserError: there is no such file, or something in it is wrong.
    """
    path = EXPERIMENTS / f"{name}.yaml"
    if name.endswith(".yaml"):
        path = Path(name)
    if not path.is_file():
        known = [file.stem for file in sorted(EXPERIMENTS.glob("*.yaml"))]
        raise UserError(
            f"there is no experiment '{name}'",
            where=str(path),
            cure=did_you_mean(name, known, "Experiments are"),
        )
    config = load_config(path)
    _train_by_protocols(config)
    experiment = config.parse(Experiment)
    _check(experiment, config)
    return experiment


def _train_by_protocols(config: Config) -> None:
    """Put in place of each arm one per protocol; of what is no mapping the fields' types tell."""
    protocols, plain = config.tree.get("protocols"), config.tree.get("arms")
    if not (isinstance(protocols, dict) and isinstance(plain, dict)):
        return
    arms = {}
    for name, arm in plain.items():
        for protocol, keys in protocols.items():
            if not (isinstance(arm, dict) and isinstance(keys, dict)):
                return
            joined = keys | arm | {"set": keys.get("set", {}) | arm.get("set", {})}
            arms[f"{name}_{protocol}"] = joined | {"protocol": protocol}
    config.tree["arms"] = arms


def _check(experiment: Experiment, config: Config) -> None:
    """Refuse references to nothing."""
    for name in experiment.named((*experiment.against, *experiment.shown)):
        if name != CONTROL and name not in experiment.arms:
            raise UserError(
                f"there is no arm '{name}'",
                where=f"{config.source}, 'against' or 'shown'",
            )
    controls = [name for name, arm in experiment.arms.items() if arm.control]
    if CONTROL in experiment.against and not controls:
        raise UserError(
            "no arm is a control",
            where=f"{config.origin('arms')}, key 'arms'",
            cure="Set control: true of one, or name other arms in 'against'",
        )
    if experiment.protocols and controls:
        raise UserError(
            "the best of the controls would be one of several protocols",
            where=f"{config.origin('arms')}, key 'control'",
            cure="Name the arm that each is compared with in 'against'",
        )
    for name, arm in experiment.arms.items():
        _check_teachers(name, arm, experiment, config)


def _check_teachers(name: str, arm: Arm, experiment: Experiment, config: Config) -> None:
    """Refuse an arm whose teacher does not exist, or is taught itself."""
    where = f"{config.origin('arms')}, arm '{name}'"
    if arm.pretrained is not None and arm.pretrained not in experiment.pretraining:
        raise UserError(
            f"there is no pre-training '{arm.pretrained}'",
            where=f"{where}, key 'pretrained'",
            cure=did_you_mean(arm.pretrained, list(experiment.pretraining), "Known are"),
        )
    if arm.labeller is not None:
        other = experiment.arms.get(arm.labeller)
        if other is None or other.pseudo != "none":
            raise UserError(
                f"'{arm.labeller}' is no arm that learns without pseudo-labels",
                where=f"{where}, key 'labeller'",
            )
    labelled = arm.pseudo in ("teacher", "both") and arm.labeller is None
    if experiment.teacher is None and (arm.teacher != "none" or labelled):
        raise UserError(
            "the arm has a teacher, and the experiment none",
            where=where,
            cure="Say how it is trained: teacher: {config: …, steps: …}",
        )


def budget_name(budget: LabelBudget | None) -> str:
    """What a table calls it, e.g. "10 %"."""
    if budget is None:
        return "100 %"
    if budget.fraction is None:
        assert budget.file is not None, "a budget has a list or a fraction"
        return budget.file.stem
    return f"{100 * budget.fraction:g} %"
