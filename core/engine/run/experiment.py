"""The configuration of one run, typed, and what it builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from core.config import Config, Section
from core.data import VoteAugmentConfig
from core.engine.run.optim import OptimizerConfig, SchedulerConfig
from core.errors import UserError
from core.losses import CrossEntropyLovasz, balanced_weights

__all__ = [
    "AmpConfig",
    "CriterionConfig",
    "EvalConfig",
    "Experiment",
    "TeacherSection",
    "TrainConfig",
]


class AmpConfig(Section):
    """``amp:`` section: mixed precision."""

    enabled: bool = Field(False, description="compute in half precision where that is safe")
    dtype: Literal["bf16", "fp16"] = Field(
        "bf16", description="bf16 needs no loss scaling; fp16 uses a gradient scaler"
    )


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


class TrainConfig(Section):
    """``train:`` section: everything about a training but its optimiser."""

    seed: int = Field(0, ge=0, description="of weights, order of scans and augmentation")
    deterministic: Literal["off", "seeded", "strict"] = Field(
        "seeded",
        description='"seeded" = seeds alone; "strict" = slower kernels on GPUs that repeat bit for bit; '
        '"off" = let cuDNN choose the fastest',
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
    sync_bn: bool = Field(True, description="batch statistics over all processes")
    save_every: int = Field(
        500, ge=1, description="optimiser steps between checkpoints within an epoch"
    )
    max_nonfinite_steps: int = Field(
        0, ge=0, description="steps with a NaN or infinite loss that are skipped before stopping"
    )

    @model_validator(mode="after")
    def _one_average(self) -> TrainConfig:
        if self.ema is not None and self.swa_start is not None:
            raise ValueError("ema and swa_start are two averages of the weights; choose one")
        return self


class EvalConfig(Section):
    """``eval:`` section: how a network is scored."""

    every: int = Field(
        1,
        ge=1,
        description="epochs between evaluations on the val split; the last epoch is always scored",
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
        description="keys that replace those of the teacher's own data section, e.g. {augment: null}",
    )
    cache: Path | None = Field(
        None,
        description="folder for what the teacher says about each scan, so that it runs once for many "
        "students; its view then has to be the same in every epoch (teacher.data.augment: null); null = none",
    )


class Experiment(Section):
    """The whole tree. ``dataset``, ``data``, ``model`` and ``distill`` are validated by the component they name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # scans per process
    workers_per_gpu: int = Field(2, ge=0)  # data-loading workers per process
    amp: AmpConfig = AmpConfig()
    criterion: CriterionConfig = CriterionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    dataset: dict
    data: dict = Field(default_factory=dict)
    model: dict
    distill: dict | None = None  # stage 2: the method and its weights
    teacher_pretrain: str | None = None  # stage 2: run folder or checkpoint of the teacher
    teacher: TeacherSection = TeacherSection()

    @model_validator(mode="after")
    def _average_begins(self) -> Experiment:
        if self.train.swa_start is not None and self.train.swa_start > self.num_epochs:
            raise ValueError(
                f"train.swa_start is {self.train.swa_start}, but there are {self.num_epochs} epochs"
            )
        return self

    @classmethod
    def from_config(cls, config: Config) -> Experiment:
        """Validate the merged tree.

        Raises:
            UserError: unknown, missing or ill-typed keys, each with its file.
        """
        return config.parse(cls)

    def criterion_for(self, num_classes: int) -> CrossEntropyLovasz:
        """The loss for ``num_classes`` outputs.

        Raises:
            UserError: no class besides "ignore", no loss term, or a class-weight list of another length.
        """
        c = self.criterion
        if num_classes < 2:
            raise UserError(
                f"the label space has {num_classes} classes; there is nothing to learn",
                where="dataset",
            )
        if c.w_ce == c.w_lovasz == c.w_balanced == 0:
            raise UserError(
                "w_ce, w_lovasz and w_balanced are 0; there is no loss", where="criterion"
            )
        if c.class_weight is not None and c.class_counts is not None:
            raise UserError(
                "class_weight and class_counts both say how classes are weighted", where="criterion"
            )
        for key, kind in (("class_weight", "weights"), ("class_counts", "counts")):
            values = getattr(c, key)
            if values is not None and len(values) != num_classes:
                raise UserError(
                    f"{len(values)} {kind} for {num_classes} classes (class 0 = ignore comes first)",
                    where=f"criterion.{key}",
                )
        weight = c.class_weight if c.class_counts is None else balanced_weights(c.class_counts)
        return CrossEntropyLovasz(c.w_ce, c.w_lovasz, weight, c.scope, c.w_balanced)
