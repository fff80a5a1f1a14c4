"""From an experiment to its jobs: databases, teachers, pre-trainings, arms, scores, in the order they are run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gain.experiment import Arm, Experiment, Overrides, budget_name
from benchmarks.gain.pretraining import pretraining_job
from benchmarks.gain.steps import Job, Made, resolved
from core.datasets.budget import LabelBudget

__all__ = ["ArmRun", "Plan", "TeacherRun"]

SCORE = "score.json"  # in the folder of a job that scores
OWN_SCORE = "evaluation-val.json"  # in a run folder, of its last weights
QUALITY = "quality.json"
LABELS = "labels"
# All runs: the last weights count, so that no arm chooses an epoch on the scans that score it.
_ALIKE: Overrides = {"eval.select": "none", "eval.pictures": 0, "amp.enabled": False}


@dataclass(frozen=True)
class ArmRun:
    """One training of an arm.

    Attributes:
        part: share of the steps. scores: by view, the job whose result it is and the file in its folder.
        pseudo: made its labels of unlabelled scans; None = it has none.
    """

    arm: str
    control: bool
    part: float
    budget: str
    seed: int
    training: Job
    scores: Mapping[str, tuple[Job, str]]
    pseudo: Job | None = None


@dataclass(frozen=True)
class TeacherRun:
    """A teacher, and the job that judges its answers on unlabelled scans; None = it has none."""

    budget: str
    seed: int
    training: Job
    quality: Job | None


@dataclass
class Plan:
    """All jobs of an experiment.

    Attributes:
        arms: their names. folder: of all jobs. extra: keys of the arms' trainings and scores, over all others.
        given: a trained teacher that takes the place of the experiment's.
    """

    experiment: Experiment
    arms: Sequence[str]
    folder: Path
    extra: Overrides = field(default_factory=dict)
    given: Path | None = None
    runs: list[ArmRun] = field(default_factory=list)
    teachers: list[TeacherRun] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        for budget in self.experiment.budgets:
            for seed in self.experiment.seeds:  # so that a stopped benchmark has whole comparisons
                self._add_pair(budget, seed)
        self.jobs = list({job.digest: job for job in self._ordered()}.values())

    def _add_pair(self, budget: LabelBudget | None, seed: int) -> None:
        """The jobs of one budget and seed."""
        teacher = None
        if self.experiment.teacher is not None:
            teacher = self._teacher(budget, seed)
            self.teachers.append(teacher)
        for name in self.arms:
            arm = self.experiment.arm(name)
            for part in self.experiment.parts(arm):
                self.runs.append(self._arm_run(name, arm, part, budget, seed, teacher))

    def _ordered(self) -> Iterator[Job]:
        """Every job after those that it needs."""
        for pair in {(run.budget, run.seed): None for run in self.runs}:
            for teacher in self.teachers:
                if (teacher.budget, teacher.seed) == pair:
                    yield from _with_needs(teacher.training)
                    if teacher.quality is not None:
                        yield from _with_needs(teacher.quality)
            for run in self.runs:
                if (run.budget, run.seed) == pair:
                    yield from _with_needs(run.training)
                    for job, _ in run.scores.values():
                        yield from _with_needs(job)

    def _shared(self, budget: LabelBudget | None, seed: int) -> Overrides:
        """Keys of all trainings of one budget and seed."""
        experiment = self.experiment
        shared = {"dataset.labelled": None} | experiment.world_keys()
        if budget is not None:
            wanted = budget.model_dump(mode="json")
            if experiment.draw == "seed" and budget.by in ("keyframe", "scene"):
                wanted["seed"] = seed
            shared["dataset.labelled"] = wanted
        return shared | _ALIKE

    def _teacher(self, budget: LabelBudget | None, seed: int) -> TeacherRun:
        spec = self.experiment.teacher
        assert spec is not None
        own_seed = seed if spec.seed is None else spec.seed
        settings = self._shared(budget, seed) | {"train.seed": own_seed}
        settings |= {"train.steps": spec.steps} | spec.set
        title = f"teacher-{_short(budget)}-s{seed}"
        training = self._training(title, spec.config, settings, ())
        if self.given is not None:
            training = Job("teacher", self.folder, "", spec.config, given=self.given)
        quality = None
        if self.experiment.unlabelled:
            quality = self._quality(spec.config, settings | self.experiment.unlabelled, training)
        return TeacherRun(budget_name(budget), seed, training, quality)

    def _quality(self, config: Path, settings: Overrides, training: Job) -> Job:
        of_data = {key: value for key, value in settings.items() if key.startswith("dataset.")}
        thresholds = [str(value) for value in self.experiment.thresholds]
        return Job(
            training.name.replace("teacher", "quality", 1),
            self.folder,
            "benchmarks/pseudo_quality.py",
            config,
            options=("--json", f"{{folder}}/{QUALITY}", "--thresholds", *thresholds),
            settings=tuple(of_data.items()),
            uses=(Made("checkpoint", training),),
        )

    def _arm_run(
        self,
        name: str,
        arm: Arm,
        part: float,
        budget: LabelBudget | None,
        seed: int,
        teacher: TeacherRun | None,
    ) -> ArmRun:
        steps = max(1, round(part * self.experiment.steps))
        settings = self._shared(budget, seed) | {"train.seed": seed, "train.steps": steps}
        settings |= self.experiment.set
        if arm.unlabelled:
            settings |= self.experiment.unlabelled
        settings |= arm.set | self.extra
        uses: list[Made] = []
        pseudo = None
        if arm.pseudo != "none" and budget is not None:
            labeller = self._labeller(arm, budget, seed, teacher)
            pseudo = self._pseudo(arm, settings, labeller)
            uses.append(Made("dataset.pseudo_labels", pseudo, LABELS))
        if arm.teacher != "none":
            assert teacher is not None, "checked when the experiment was read"
            uses.append(Made("teacher_pretrain", teacher.training))
        if arm.teacher == "cached":
            uses.append(Made("teacher.cache", teacher.training, "knowledge"))
        if arm.pretrained is not None:
            begun = pretraining_job(self.experiment, arm.pretrained, seed, _ALIKE, self.folder)
            uses.append(Made("train.init_from", begun))
        title = f"{name}-{_short(budget)}-s{seed}" + (f"-{steps}" if part < 1 else "")
        training = self._training(title, arm.config, settings, tuple(uses))
        scores = {
            view: self._score(title, view, arm, keys, settings, training)
            for view, keys in self.experiment.views.items()
        }
        of = budget_name(budget)
        return ArmRun(name, arm.control, part, of, seed, training, scores, pseudo)

    def _labeller(
        self, arm: Arm, budget: LabelBudget, seed: int, teacher: TeacherRun | None
    ) -> Job | None:
        """The training of the network that gives pseudo-labels; None = no network does."""
        if arm.pseudo == "poses":
            return None
        if arm.labeller is None:
            assert teacher is not None, "checked when the experiment was read"
            return teacher.training
        other = self.experiment.arm(arm.labeller)
        return self._arm_run(arm.labeller, other, 1.0, budget, seed, teacher).training

    def _pseudo(self, arm: Arm, settings: Overrides, labeller: Job | None) -> Job:
        of_data = {key: value for key, value in settings.items() if key.startswith("dataset.")}
        options: tuple[str, ...] = ("--source", arm.pseudo, "--out", f"{{folder}}/{LABELS}")
        uses: tuple[Made, ...] = ()
        if labeller is not None:
            options += ("--votes", str(arm.votes))
            uses = (Made("checkpoint", labeller),)
        return Job(
            f"pseudo-{arm.pseudo}",
            self.folder,
            "prepare_pseudo_labels.py",
            arm.config,
            options=options,
            settings=tuple(of_data.items()),
            uses=uses,
        )

    def _training(
        self, title: str, config: Path, settings: Overrides, uses: tuple[Made, ...]
    ) -> Job:
        """The training, after a database of instances from the same labels if it pastes any."""
        tree = resolved(config, settings)
        script = "train_teacher.py" if tree.get("distill") is None else "train_student.py"
        if (tree.get("data") or {}).get("paste"):
            uses = (*uses, Made("data.paste.database", self._database(config, settings), "cut"))
        return Job(
            title,
            self.folder,
            script,
            config,
            options=("--run-dir", "{folder}"),
            settings=tuple(settings.items()),
            uses=uses,
        )

    def _database(self, config: Path, settings: Overrides) -> Job:
        of_data = {key: value for key, value in settings.items() if key.startswith("dataset.")}
        return Job(
            "database",
            self.folder,
            "prepare_inst_database.py",
            config,
            options=("--out", "{folder}/cut"),
            settings=tuple(of_data.items()),
        )

    def _score(
        self, title: str, view: str, arm: Arm, keys: Overrides, settings: Overrides, training: Job
    ) -> tuple[Job, str]:
        told = arm.scored | keys
        if not told:
            return training, OWN_SCORE
        scoring = Job(
            f"score-{title}-{view}",
            self.folder,
            "evaluate.py",
            arm.config,
            options=("--json", f"{{folder}}/{SCORE}", "--run-dir", "{folder}"),
            settings=tuple((settings | told).items()),
            uses=(Made("checkpoint", training),),
        )
        return scoring, SCORE


def _with_needs(job: Job) -> Iterator[Job]:
    for made in job.uses:
        yield from _with_needs(made.job)
    yield job


def _short(budget: LabelBudget | None) -> str:
    return budget_name(budget).replace(" %", "").replace(".", "_")
