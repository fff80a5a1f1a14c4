"""What a training does when a loss or a gradient stops being a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from core.engine.run.distributed import World
from core.errors import UserError
from core.io import write_json

__all__ = ["NonFiniteGuard"]

_INTACT = "the last checkpoint is intact"


class NonFiniteGuard:
    """Writes down batches whose loss is NaN or infinite, and stops the training after too many.

    Args:
        run_path: the run folder; ``nonfinite.json`` there describes the last such batch.
        world: this process among the others.
        allowed: ``train.max_nonfinite_steps``, such steps that are skipped before the training stops.

    Attributes:
        count: steps with a loss that was not finite.
    """

    def __init__(self, run_path: Path, world: World, allowed: int) -> None:
        self.run_path = run_path
        self.world = world
        self.allowed = allowed
        self.count = 0

    def report(
        self, losses: Mapping[str, float], tokens: Sequence[str], epoch: int, step: int
    ) -> None:
        """Count and write down a batch with a loss that is not finite. Collective.

        Args:
            losses: by name, the same on every rank.
            tokens: the scans of this rank's batch.

        Raises:
            UserError: more steps were not finite than are allowed.
        """
        self.count += 1
        by_rank = self._tokens_by_rank(tokens)
        record = {
            "epoch": epoch,
            "step": step,
            "losses": {name: str(value) for name, value in losses.items()},
            "tokens_by_rank": by_rank,
        }
        path = self.run_path / "nonfinite.json"
        if self.world.rank == 0:
            write_json(path, record)
        if self.count > self.allowed:
            broken = [name for name, value in losses.items() if not math.isfinite(value)]
            scans = "; ".join(", ".join(names) for names in by_rank)
            raise UserError(
                f"the loss ({', '.join(broken)}) is not finite at epoch {epoch}, step {step}; the batch was "
                f"{scans} (written to {path})",
                where="training",
                cure="Check these scans with `python -m core.check_data`, lower optimizer.lr or set train.grad_clip; "
                + _INTACT,
            )

    def bad_gradient(self, step: int) -> UserError:
        """The error of a gradient that is not finite although the loss was."""
        return UserError(
            f"the gradient is not finite at step {step} although the loss is",
            where=str(self.run_path),
            cure=f"Lower optimizer.lr, set train.grad_clip, or switch amp off; {_INTACT}",
        )

    def _tokens_by_rank(self, tokens: Sequence[str]) -> list[list[str]]:
        gathered: list[Any] = [tokens]
        if self.world.size > 1:
            gathered = [None] * self.world.size
            dist.all_gather_object(gathered, tokens)
        return [list(names) for names in gathered]
