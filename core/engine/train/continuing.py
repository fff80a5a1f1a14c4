"""A run folder with its newest checkpoint, if that belongs to the very training that is to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.datasets.base import ScanDataset
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.context import Context
from core.engine.run.distributed import barrier, from_rank_zero
from core.engine.run.experiment import AmpConfig
from core.engine.train.split import check_same_scans, write_labelled
from core.engine.train.trainer import Trainer
from core.errors import UserError

__all__ = ["open_run"]


def open_run(context: Context, trainer: Trainer, train_set: ScanDataset) -> dict[str, Any] | None:
    """Open the run folder; the newest whole checkpoint there, or None.

    Raises:
        UserError: the folder belongs to another configuration, label space, teacher, number type, or other scans.
    """
    run_dir = trainer.run_dir
    run_dir.open(context.config, context.world)
    newest = from_rank_zero(run_dir.checkpoints.newest_path)
    state = None if newest is None else read_checkpoint(newest)
    if context.world.rank == 0:
        # a run killed before its first checkpoint starts over, and so do its scalars
        run_dir.rewind(0 if state is None else state["global_step"])
    barrier()
    if state is not None:
        _check_same_labels(state["identity"], trainer.identity, run_dir.path)
        _check_same_teacher(state["identity"], trainer.identity, run_dir.path)
        _check_same_numbers(state["identity"], trainer.identity, run_dir.path)
        check_same_scans(state["identity"], trainer.identity, run_dir.path)
    if context.world.rank == 0:
        write_labelled(train_set, run_dir.path)
    return state


def _check_same_labels(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    """Refuse a label space of other content; the configuration knows but its name."""
    if old["fingerprint"] != new["fingerprint"]:
        raise UserError(
            "this run was started with another label space: its classes, or the map from ids to them, have changed",
            where=f"{run_path}, key 'dataset.labels'",
            cure="Give the label space the content it had, or choose another --run-dir",
        )


def _check_same_teacher(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    before, now = (identity.get("teacher", {}).get("sha256") for identity in (old, new))
    if before != now:
        raise UserError(
            f"this run was started with another teacher (SHA-256 {str(before)[:12]}, now {str(now)[:12]})",
            where=f"{run_path}, key 'teacher_pretrain'",
            cure="Give the first teacher again, or choose another --run-dir",
        )


def _check_same_numbers(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    """Refuse to go on in another number type: ``amp.enabled: auto`` means another one on another machine."""
    now = new["number_type"]
    before = old.get("number_type")
    if before is None:  # a checkpoint of before there was ``auto``
        amp = AmpConfig.model_validate(old["config"].get("amp", {}))
        before = amp.dtype if amp.enabled else "fp32"
    if before == now:
        return
    cure = f"Go on in {before} with --amp.enabled {str(before != 'fp32').lower()}"
    raise UserError(
        f"this run computes in {before}, and would go on in {now} on this machine",
        where=f"{run_path}, key 'amp.enabled'",
        cure=f"{cure}, or choose another --run-dir",
    )
