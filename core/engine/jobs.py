"""The jobs behind the commands: build everything a configuration names, train it, score it, report it."""

from __future__ import annotations

import os
import random
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import nn

from core.config import Config
from core.data import DataConfig, PairedSamples, ScanSamples, build_loader
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.engine.callbacks import Checkpoints, EpochLog, Evaluation, JSONLines, Progress, Resume, TensorBoard
from core.engine.checkpoint import load_weights, read_checkpoint
from core.engine.distributed import World, barrier, join_over_ranks, rank_zero_first
from core.engine.evaluation import score_network
from core.engine.experiment import Experiment
from core.engine.memory import keep_freed_memory
from core.engine.run_dir import RunDir
from core.engine.trainer import DistillTrainer, Supervised, autocast
from core.engine.voting import PLAIN, Votes, polling
from core.errors import UserError
from core.io import read_json, sha256, write_json
from core.labels import LabelSpace
from core.metrics import EvaluationResult, SegmentationScore
from core.models import build_model

__all__ = ["BEST_SCALAR", "Workshop", "evaluate_checkpoint", "run_training", "train_teacher", "trained_network"]

BEST_SCALAR = "iou/val/vox"


@dataclass(frozen=True)
class Workshop:
    """What every job needs: the typed configuration, this process, and builders that know both."""

    config: Config
    experiment: Experiment
    world: World

    @classmethod
    def open(cls, config: Config, world: World) -> Workshop:
        """Validate the whole configuration, seed this process, set the determinism level.

        Raises:
            UserError: anything the configuration gets wrong.
        """
        experiment = Experiment.from_config(config)
        configure_logging(world)
        keep_freed_memory()
        seed = experiment.train.seed + world.rank
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        if experiment.train.deterministic == "strict":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = experiment.train.deterministic == "off"
        return cls(config, experiment, world)

    @property
    def data(self) -> DataConfig:
        """The ``data:`` section."""
        return self.config.parse(DataConfig, "data")

    def dataset(self, split: str) -> ScanDataset:
        """One split; rank 0 opens it first, so that an index is built once."""
        with rank_zero_first(self.world):
            dataset = build_dataset(self.config, split)
        return dataset

    def loader(self, dataset: ScanDataset, training: bool) -> Any:
        """Batches of one view, of this rank."""
        samples = ScanSamples(dataset, self.data, training=training, seed=self.experiment.train.seed)
        return self.loader_of(samples, training)

    def loader_of(self, samples: ScanSamples | PairedSamples, training: bool, batch_size: int | None = None) -> Any:
        """Batches of these samples, of this rank; as large as the configuration says if not told otherwise."""
        e = self.experiment
        return build_loader(
            samples,
            batch_size=batch_size or (e.batch_size if training else e.eval.batch_size),
            workers=e.workers_per_gpu,
            training=training,
            seed=e.train.seed,
            rank=self.world.rank,
            world=self.world.size,
            pin_memory=self.world.device.type == "cuda",
        )

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """What is initialised inside is alike on every rank, whatever was drawn before."""
        state = torch.get_rng_state()
        torch.manual_seed(self.experiment.train.seed)
        yield
        torch.set_rng_state(state)

    def model(self, num_classes: int, *, pretrained: bool = True) -> nn.Module:
        """The network, initialised alike on every rank; files of pretrained weights are read on request."""
        with self.seeded():
            return build_model(self.config, num_classes, pretrained=pretrained)

    def start_from_other_run(self, module: nn.Module) -> None:
        """Load the weights ``train.init_from`` names, if it does, into what is about to be trained."""
        if self.experiment.train.init_from is not None:
            from core.engine.starting_weights import start_from

            start_from(module, self.experiment.train.init_from, self.experiment.train.init_skip)

    def context(self) -> Any:
        """The mixed-precision context."""
        return autocast(self.experiment, self.world.device)


def configure_logging(world: World) -> None:
    """Messages of rank 0 go to stderr; torchpack's own are switched off, ours say the same with less."""
    logger.remove()
    logger.disable("torchpack")
    if world.rank == 0:
        logger.add(sys.stderr, level="INFO", format="<green>{time:HH:mm:ss}</green> <level>{message}</level>")


def train_teacher(world: World, config: Config, run_path: Path, *, profile: int | None = None) -> None:
    """Stage 1: train a LiDAR-only network with labels, score it each epoch, write the report.

    Args:
        profile: measure this many steps in place of all that.

    Raises:
        UserError: the configuration is a student's, or gets something else wrong.
    """
    if "distill" in config.tree:
        raise UserError(
            "this is a student's configuration", where=config.origin("distill"), cure="Run train_student.py with it"
        )
    shop = Workshop.open(config, world)
    train_set, val_set = shop.dataset("train"), shop.dataset("val")
    run_training(shop, teacher_trainer(shop, train_set, RunDir(run_path)), val_set, profile)


def run_training(shop: Workshop, trainer: DistillTrainer, val_set: ScanDataset, profile: int | None = None) -> None:
    """Train from the newest checkpoint to the last epoch, then score the best weights and write the report.

    The trainer comes ready-made: a faulty setting has stopped the job before the run folder is touched. With
    ``profile`` so many steps are measured instead, and the run folder gets their profile alone.
    """
    if profile is not None:
        from core.engine.profiling import profile_training

        profile_training(trainer, profile)
        return
    world, config, run_dir = shop.world, shop.config, trainer.run_dir
    run_path = run_dir.path
    run_dir.open(config, world)
    found = run_dir.checkpoints.newest()
    state = None if found is None else found[1]
    if world.rank == 0:  # a run killed before its first checkpoint starts over, and so do its scalars
        run_dir.rewind(0 if state is None else state["global_step"])
    barrier()
    if state is not None:
        _same_teacher(state["identity"], trainer.identity, run_path)
    if state is not None and state["global_step"] >= trainer.total_steps:
        if world.rank == 0:
            logger.info("{} is already trained to its last epoch", run_path)
    else:
        _fit(shop, trainer, val_set, run_dir, state)
    barrier()
    best = run_dir.path / "checkpoints" / f"max-{BEST_SCALAR.replace('/', '-')}.pt"
    if not _scored_before(run_path, best):
        evaluate_checkpoint(world, config, best, run_path, report=True)
    elif world.rank == 0:
        result = EvaluationResult.from_json(read_json(run_path / "evaluation-val.json"))
        _result_line(result, run_path / "report.html", shop.experiment.eval.legacy_metric)


def _same_teacher(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    before, now = (identity.get("teacher", {}).get("sha256") for identity in (old, new))
    if before != now:
        raise UserError(
            f"this run was started with another teacher (SHA-256 {str(before)[:12]}, now {str(now)[:12]})",
            where=f"{run_path}, key 'teacher_pretrain'",
            cure="Give the first teacher again, or choose another --run-dir",
        )


def teacher_trainer(shop: Workshop, train_set: ScanDataset, run_dir: RunDir) -> DistillTrainer:
    """The trainer of stage 1, before its first step."""
    labels = train_set.labels
    criterion = shop.experiment.criterion_for(labels.num_classes)
    fresh = not run_dir.checkpoints.manifest()
    model = shop.model(labels.num_classes, pretrained=fresh)
    if fresh:
        shop.start_from_other_run(model)
    return DistillTrainer(
        shop.experiment,
        model,
        Supervised(criterion.to(shop.world.device)),
        shop.loader(train_set, training=True),
        shop.world,
        run_dir,
        {"fingerprint": labels.fingerprint, "classes": list(labels.classes), "config": shop.config.tree},
    )


def _scored_before(run_path: Path, checkpoint: Path) -> bool:
    """Whether the run folder holds the score and the report of this very checkpoint."""
    saved = run_path / "evaluation-val.json"
    whole = saved.is_file() and (run_path / "report.html").is_file()
    return whole and read_json(saved).get("checkpoint_sha256") == sha256(checkpoint)


def _result_line(result: EvaluationResult, page: Path | None, legacy: bool) -> None:
    ending = "" if page is None else f"  report: {page}"
    lenient = f" (legacy, points without a prediction left out: {100 * result.miou_legacy:.2f})" if legacy else ""
    voted = f", {result.votes} votes each" if result.votes > 1 else ""
    sys.stdout.write(
        f"mIoU {100 * result.miou:.2f}{lenient} on {result.num_scans} {result.split} scans{voted}{ending}\n"
    )
    sys.stdout.flush()


def _fit(shop: Workshop, trainer: DistillTrainer, val_set: ScanDataset, run_dir: RunDir, state: Any) -> None:
    val_loader = shop.loader(val_set, training=False)
    classes = val_set.labels.classes

    def score() -> dict[str, float]:
        result, _, _ = score_network(trainer.scored_model, val_loader, len(classes), shop.world, shop.context)
        ious = result.overall.iou().tolist()
        named = {f"{BEST_SCALAR}/{name}": 100 * iou for name, iou in zip(classes[1:], ious[1:]) if iou == iou}
        return {BEST_SCALAR: 100 * result.overall.miou()} | named

    e = shop.experiment
    callbacks = [
        Resume(state),
        Evaluation(score, e.eval.every),
        EpochLog(BEST_SCALAR),
        JSONLines(run_dir),
        TensorBoard(run_dir, 0 if state is None else state["global_step"]),
        Progress(),
        Checkpoints(BEST_SCALAR, e.train.save_every),
    ]
    trainer.train(trainer.steps, num_epochs=e.num_epochs, callbacks=callbacks)
    skipped = join_over_ranks(trainer.skipped_samples)
    if skipped and shop.world.rank == 0:
        path = run_dir.path / "skipped.json"
        write_json(path, skipped)
        logger.warning("{} damaged scans were skipped; see {}", len(skipped), path)


def trained_network(shop: Workshop, labels: LabelSpace, checkpoint: Path) -> nn.Module:
    """The configuration's network with the weights of a checkpoint, on this rank's device.

    Raises:
        UserError: the checkpoint belongs to another model or label space.
    """
    state = read_checkpoint(checkpoint)
    identity = state.get("identity", {})
    if identity.get("fingerprint") != labels.fingerprint:
        raise UserError(
            f"this checkpoint was trained on other classes ({', '.join(identity.get('classes', [])[1:6])}, …)",
            where=str(checkpoint),
            cure=f"Evaluate it on its own data set; '{labels.name}' has {labels.num_classes - 1} classes",
        )
    model = shop.model(labels.num_classes, pretrained=False)
    load_weights(model, state["model"], str(checkpoint))
    return model.to(shop.world.device)


def frozen_score(
    score: SegmentationScore, totals: Mapping[str, float], labels: LabelSpace, **about: Any
) -> EvaluationResult:
    """What :func:`score_network` returned, with this command line; ``about`` holds what only the caller knows."""
    return EvaluationResult.from_score(
        score,
        dataset=labels.name,
        classes=labels.classes,
        num_scans=int(totals["scans"]),
        num_points=int(totals["points"]),
        seconds=totals["seconds"],
        command=shlex.join(["python", *sys.argv]),
        **about,
    )


def evaluate_checkpoint(
    world: World,
    config: Config,
    checkpoint: Path,
    run_path: Path,
    *,
    split: str = "val",
    json_path: Path | None = None,
    report: bool = False,
    votes: Votes = PLAIN,
    beside: Mapping[str, Path] = MappingProxyType({}),
) -> EvaluationResult:
    """Score a checkpoint on a split: every raw point, all ranks. Prints one line of result on rank 0.

    Args:
        json_path: where the scores go; None = into the run folder.
        votes: views of each scan that decide together; by default one plain pass.
        report: write ``report.html`` too. beside: other networks' score files, by the name they get in the report.

    Raises:
        UserError: the checkpoint belongs to another model or label space.
    """
    from core.engine.reporting import PictureCollector, report_run

    others = [(name, EvaluationResult.from_json(read_json(path), str(path))) for name, path in beside.items()]
    shop = Workshop.open(config, world)
    dataset = shop.dataset(split)
    labels = dataset.labels
    model = trained_network(shop, labels, checkpoint)
    pictures = PictureCollector(dataset, shop.experiment.eval.pictures if report and world.rank == 0 else 0)
    loader, predict = polling(shop, dataset, shop.data, votes)
    score, totals, skipped = score_network(model, loader, labels.num_classes, world, shop.context, pictures, predict)
    result = frozen_score(
        score,
        totals,
        labels,
        split=split,
        checkpoint=str(checkpoint),
        checkpoint_sha256=sha256(checkpoint),
        votes=votes.count,
        extra={"votes": votes.about(shop)} if votes.count > 1 else {},
    )
    if world.rank == 0:
        for message in skipped:
            logger.warning("skipped: {}", message)
        voted = f"-votes{votes.count}" if votes.count > 1 else ""  # the run's own score is that of one plain pass
        write_json(json_path or run_path / f"evaluation-{split}{voted}.json", result.to_json())
        page = report_run(run_path, result, pictures, config, others) if report else None
        _result_line(result, page, shop.experiment.eval.legacy_metric)
    return result
