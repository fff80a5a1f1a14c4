"""The configuration of one run, typed, and what it builds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, create_model, field_validator, model_validator

from core.config import Config, Section
from core.data import DataConfig, VoteAugmentConfig
from core.data.partitions import PARTITIONS
from core.datasets import DATASETS
from core.datasets.base import DatasetConfig
from core.distill import METHODS
from core.engine.run.optim import OptimizerConfig, SchedulerConfig
from core.errors import UserError, counted
from core.losses import CrossEntropyLovasz, balanced_weights
from core.machine import native_bf16
from core.models import MODELS, model_section
from core.registry import look_up

__all__ = [
    "COMPONENTS",
    "AmpConfig",
    "CriterionConfig",
    "EvalConfig",
    "Experiment",
    "NumberType",
    "TeacherSection",
    "TrainConfig",
    "check_config",
]

NumberType = Literal["fp32", "bf16", "fp16"]
# Sections that a component reads, which their ``name`` picks: its registry, and what is in there.
COMPONENTS: dict[str, tuple[Mapping[str, str], str]] = {
    "dataset": (DATASETS, "data sets"),
    "model": (MODELS, "models"),
    "distill": (METHODS, "methods"),
}


class AmpConfig(Section):
    """``amp:`` section: mixed precision."""

    enabled: bool | Literal["auto"] = Field(
        False,
        description="compute in half precision where that is safe; auto = only where the processor or GPU has "
        "instructions for it, elsewhere it would be slower than fp32",
    )
    dtype: Literal["bf16", "fp16"] = Field(
        "bf16", description="bf16 needs no loss scaling; fp16 uses a gradient scaler"
    )

    def number_type(self, device: str) -> NumberType:
        """What networks compute in on this machine.

        Args:
            device: cpu or cuda.
        """
        if self.enabled == "auto" and not _is_native(self.dtype, device):
            return "fp32"
        return self.dtype if self.enabled else "fp32"


def _is_native(dtype: Literal["bf16", "fp16"], device: str) -> bool:
    if device == "cuda":
        return dtype == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    return dtype == "bf16" and native_bf16()


class CriterionConfig(Section):
    """``criterion:`` section: cross entropy + Lovász-softmax on voxel logits."""

    w_ce: float = Field(1.0, ge=0, description="weight of the cross entropy")
    w_lovasz: float = Field(1.0, ge=0, description="weight of the Lovász-softmax")
    w_balanced: float = Field(
        0.0, ge=0, description="weight of a cross entropy in which every class present counts alike"
    )
    class_weight: list[float] | None = Field(
        None, description="one weight per class, class 0 (ignore) first; null = all alike"
    )
    class_counts: list[int] | None = Field(
        None,
        description="in its place: training points per class; weight = (most / count)^(1/3)",
    )
    scope: Literal["global", "local"] = Field(
        "global", description="the joined batch of all processes, or each process on its own"
    )

    def check(self, num_classes: int) -> None:
        """Refuse weights that do not suit this many classes.

        Raises:
            UserError: no loss term, two kinds of class weights, or a list of another length.
        """
        if self.w_ce == self.w_lovasz == self.w_balanced == 0:
            raise UserError(
                "w_ce, w_lovasz and w_balanced are 0; there is no loss", where="criterion"
            )
        if self.class_weight is not None and self.class_counts is not None:
            raise UserError(
                "class_weight and class_counts both say how classes are weighted", where="criterion"
            )
        for key, kind in (("class_weight", "weights"), ("class_counts", "counts")):
            values = getattr(self, key)
            if values is None:
                continue
            if len(values) != num_classes:
                raise UserError(
                    f"{len(values)} {kind} for {num_classes} classes (class 0 = ignore comes first)",
                    where=f"criterion.{key}",
                )
            if min(values) < 0 or not any(values[1:]):
                raise UserError(
                    f"the {kind} are {values}; expected none below 0, and one class above it",
                    where=f"criterion.{key}",
                    cure="'python -m core.check_data CONFIG' counts the points of each class",
                )


class TrainConfig(Section):
    """``train:`` section: everything about a training but its optimiser."""

    seed: int = Field(
        0, ge=0, lt=1 << 32, description="of weights, order of scans and augmentation"
    )
    deterministic: Literal["off", "seeded", "strict"] = Field(
        "seeded",
        description='"seeded" = seeds alone; "strict" = slower kernels on GPUs that repeat bit for bit; '
        '"off" = let cuDNN choose the fastest',
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="optimiser steps of the whole training, in place of num_epochs: trainings on more and fewer scans "
        "are then of one length; the last epoch ends with them; null = num_epochs whole epochs",
    )
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    grad_clip: float | None = Field(
        None, gt=0, description="largest L2 norm of the gradient; null = any"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of averaged weights, e.g. 0.999; evaluation uses them; null = none",
    )
    swa_start: int | None = Field(
        None,
        ge=1,
        description="in its place: mean of the weights at the ends of epochs from this on; null = none",
    )
    init_from: Path | None = Field(
        None,
        description="fine-tuning: checkpoint or run folder whose weights the run begins with; "
        "null = from scratch",
    )
    init_skip: list[str] = Field(
        default_factory=list,
        description="beginnings of parameters' names that do not come from there, e.g. head.",
    )
    trainable: Literal["all"] | list[str] = Field(
        "all",
        description="beginnings of names of the only weights of the deployed network that learn, the rest staying in "
        "evaluation mode (linear probing: [classifier_vox.]); all = the whole network",
    )
    title: str | None = Field(
        None, description="name in progress lines; null = the name of the run folder"
    )
    sync_bn: bool = Field(True, description="batch statistics over all processes")
    save_every: int = Field(
        500, ge=1, description="optimiser steps between checkpoints within an epoch"
    )
    save_epochs: int = Field(
        1,
        ge=1,
        description="epochs between checkpoints at an epoch's end; the last epoch's and those with the best score are "
        "always saved. Writing takes longer than an epoch of a few steps of a large network",
    )
    max_nonfinite_steps: int = Field(
        0, ge=0, description="steps with a NaN or infinite loss that are skipped before stopping"
    )

    @model_validator(mode="after")
    def _one_average(self) -> TrainConfig:
        if self.ema is not None and self.swa_start is not None:
            raise ValueError("ema and swa_start are two averages of the weights; choose one")
        return self

    def check_average(self, epochs: int) -> None:
        """Refuse an average that would never begin.

        Args:
            epochs: of the whole training.

        Raises:
            UserError: ``swa_start`` lies beyond them.
        """
        if self.swa_start is not None and self.swa_start > epochs:
            raise UserError(
                f"train.swa_start is {self.swa_start}, but there are {counted(epochs, 'epoch')}",
                where="key 'train.swa_start'",
                cure="Begin earlier, or train longer",
            )


class EvalConfig(Section):
    """``eval:`` section: how a network is scored."""

    every: int = Field(
        1,
        ge=1,
        description="epochs between evaluations on the val split; the last epoch is always scored",
    )
    select: str | list[str] | None = Field(
        None,
        description="what the best checkpoint is best at: miou, iou/<class> or a list of those (mean), loss (the "
        "method's own, on the val split), last (the last weights; that loss is measured), none (the last weights); "
        "null = as the method says, most often miou",
    )
    batch_size: int = Field(1, ge=1, description="scans per process")
    pictures: int = Field(3, ge=0, description="scans drawn in report.html")
    legacy_metric: bool = Field(
        False,
        description="print the lenient mIoU of 2DPASS's published scores beside the official one",
    )
    vote_augment: VoteAugmentConfig = Field(
        VoteAugmentConfig(),
        description="what the views of --vote-mode legacy_random are drawn from",
    )


class TeacherSection(Section):
    """``teacher:`` section of a student's configuration."""

    model: dict[str, Any] = Field(
        default_factory=dict,
        description="what the teacher has to be, e.g. {name: spvcnn_spformer, cr: 2.0}; compared with its "
        "checkpoint",
    )
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="keys that replace those of the teacher's own data section, e.g. {augment: null}; null = none",
    )
    source: Literal["checkpoint", "ema"] = Field(
        "checkpoint",
        description='"checkpoint" = a trained network, teacher_pretrain; "ema" = the running average of the student\'s '
        "own weights (train.ema), on the student's batch (mean teacher)",
    )
    view: Literal["own", "shared"] = Field(
        "own",
        description='"own" = the teacher sees each scan under its own data section and augmentation; "shared" = it '
        "runs on the student's very batch, for which both need the same cells and features",
    )
    cache: Path | None = Field(
        None,
        description="folder for what the teacher says about each scan, so that it runs once for many "
        "students; its view then has to be the same in every epoch (teacher.data.augment: null); null = none",
    )

    @field_validator("data", mode="before")
    @classmethod
    def _no_keys(cls, value: object) -> object:
        """Null takes away what a recipe further up says."""
        return {} if value is None else value

    @model_validator(mode="after")
    def _one_source(self) -> TeacherSection:
        if self.view == "shared" and self.cache is not None:
            raise ValueError("view: shared runs the teacher in every step; leave cache out")
        given = self.model_dump(exclude_defaults=True, exclude={"source"})
        if self.source == "ema" and given:
            names = ", ".join(sorted(given))
            raise ValueError(
                f"source: ema is the student itself on its own batch; leave out {names}"
            )
        return self


class Experiment(Section):
    """The whole tree.

    ``dataset``, ``model`` and ``distill`` are read by the component that their ``name`` picks; :meth:`from_config`
    gives the section of that component.
    """

    num_epochs: int = Field(
        ge=1, description="passes over the training split; train.steps goes before"
    )
    batch_size: int = Field(ge=1, description="scans per process")
    workers_per_gpu: int = Field(2, ge=0, description="data-loading processes per training process")
    amp: AmpConfig = Field(AmpConfig(), description="mixed precision")
    criterion: CriterionConfig = Field(CriterionConfig(), description="the segmentation loss")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="how weights move")
    scheduler: SchedulerConfig = Field(SchedulerConfig(), description="the learning rate over time")
    train: TrainConfig = Field(TrainConfig(), description="the rest of a training")
    eval: EvalConfig = Field(EvalConfig(), description="how a network is scored")
    dataset: DatasetConfig = Field(description="where scans come from; name picks the reader")
    data: DataConfig = Field(DataConfig(), description="how a scan becomes a sample")
    model: Section = Field(description="the network; name picks it")
    distill: Section | None = Field(
        None, description="the method and its weights; name picks it; null = supervised"
    )
    teacher_pretrain: str | None = Field(
        None, description="stage 2: run folder or checkpoint of the teacher"
    )
    teacher: TeacherSection = Field(
        TeacherSection(), description="stage 2: what the teacher is and sees"
    )

    @model_validator(mode="after")
    def _average_begins(self) -> Experiment:
        if self.train.steps is None:  # else the number of epochs depends on that of the scans
            self.train.check_average(self.num_epochs)
        return self

    @classmethod
    def from_config(cls, config: Config) -> Experiment:
        """Validate the merged tree, all of it, before anything is opened.

        Raises:
            UserError: unknown, missing or ill-typed keys, each with its file; an unknown reader, network or method.
        """
        sections = _chosen_sections(config, ["dataset", "model"])
        _check_partition(config, "data.partition")
        experiment = config.parse(_schema(cls, sections))
        model_section(config)  # what it reads suits the data section
        _check_teacher(config)
        return experiment

    def criterion_for(self, num_classes: int) -> CrossEntropyLovasz:
        """The loss for ``num_classes`` outputs.

        Raises:
            UserError: no class besides "ignore", no loss term, or a class-weight list of another length.
        """
        if num_classes < 2:
            raise UserError(
                f"the label space has {num_classes} classes; there is nothing to learn",
                where="dataset",
            )
        criterion = self.criterion
        criterion.check(num_classes)
        weight = criterion.class_weight
        if criterion.class_counts is not None:
            weight = balanced_weights(criterion.class_counts)
        return CrossEntropyLovasz(
            criterion.w_ce, criterion.w_lovasz, weight, criterion.scope, criterion.w_balanced
        )


def check_config(config: Config) -> None:
    """Validate what a configuration holds, for commands that need its data set alone.

    What is there has to be right; the network and the length of a training may be missing.

    Raises:
        UserError: as :meth:`Experiment.from_config`.
    """
    sections = _chosen_sections(config, ["dataset"])
    for key, stand_in in (("num_epochs", sys.maxsize), ("batch_size", 1), ("model", None)):
        if config.get(key) is None:
            sections[key] = (Any, stand_in)
    _check_partition(config, "data.partition")
    config.parse(_schema(Experiment, sections))
    _check_teacher(config)


def _chosen_sections(config: Config, required: Sequence[str]) -> dict[str, Any]:
    """Fields of the sections that a component reads: name -> (its type, ...); ``...`` = it has to be there."""
    sections: dict[str, Any] = {}
    for key, (registry, kind) in COMPONENTS.items():
        if key in required or config.get(key) is not None:
            component = look_up(registry, config, f"{key}.name", kind)
            sections[key] = (component.Config, ...)
    return sections


def _schema(kind: type[Experiment], sections: dict[str, Any]) -> type[Experiment]:
    """``kind`` with these fields in place of its general ones."""
    return create_model(kind.__name__, __base__=kind, **sections)


def _check_partition(config: Config, key: str) -> None:
    """Validate a partition by itself first: errors then name its keys, not the section as a whole."""
    if config.get(key) is not None:
        section = look_up(PARTITIONS, config, f"{key}.name", "partitions")
        config.parse(section, key)


def _check_teacher(config: Config) -> None:
    """Validate what a student's configuration says of its teacher: both parts replace or compare single keys."""
    _check_partition(config, "teacher.data.partition")
    config.parse(DataConfig, "teacher.data")
    if config.get("teacher.model.name") is not None:
        network = look_up(MODELS, config, "teacher.model.name", "models")
        config.parse(network.Config, "teacher.model")
