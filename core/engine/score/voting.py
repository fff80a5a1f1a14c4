"""Predictions that several views of a scan vote on (test-time augmentation).

Views are linked by point indices: each view gives every point the scores of its own voxel there, and the sums decide.
A scan seen from ``N`` sides costs ``N`` forward passes; its kernel maps cannot be shared, since every turn makes other
voxels. Features of images could be, and are not: the pictures of all views are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from core.contracts import IGNORE, Batch, Output
from core.data import ChosenScans, DataConfig, VotePlan, VoteSamples
from core.data.votes import MIRRORS, VoteMode
from core.datasets.base import ScanDataset
from core.engine.run.forward import infer
from core.engine.score.evaluation import Predictor, decided_points, predictions
from core.engine.score.tally import Sums, Tally, Visits, shown_points
from core.errors import UserError
from core.sparse import fold_batch_norm

if TYPE_CHECKING:
    from core.engine.run.context import Context

__all__ = [
    "PLAIN",
    "Votes",
    "check_visits",
    "loader_and_predictor",
    "point_scores",
    "voted_predictions",
    "voted_scores",
    "winners",
]


_FLIPS_ELSEWHERE = {  # how the other modes are asked for mirrors
    "mirrors": "Leave it out: these views are mirrored",
    "points": "Leave it out: these views are as recorded",
    "legacy_random": "Set eval.vote_augment.flip instead",
    "legacy_cumulative": "Leave it out: these views are mirrored as in PVKD",
}


@dataclass(frozen=True)
class Votes:
    """What the ``--vote…`` options ask for.

    Attributes:
        count: views per scan; 1 = one plain pass.
        mode, flips: see :class:`core.data.VotePlan`.
        sum: what is added up over the views: the classes' probabilities, "ignore" left out, or the raw logits.
        chunk: views that go through the network together; it bounds the memory and changes no score. None = 4 on a GPU,
            where few voxels leave it idle, and 1 on a processor, where many leave its caches.
    """

    count: int = 1
    mode: VoteMode = "fixed"
    sum: Literal["softmax", "logits"] = "softmax"
    chunk: int | None = None
    flips: bool = False

    def __post_init__(self) -> None:
        for option, value in (("--votes", self.count), ("--vote-chunk", self.chunk)):
            if value is not None and value < 1:
                raise UserError(
                    f"{value} is no number of views", where=option, cure="Give 1 or more"
                )
        if self.flips and self.mode != "fixed":
            raise UserError(
                "only fixed views are mirrored by it",
                where="--vote-flips",
                cure=_FLIPS_ELSEWHERE[self.mode],
            )
        self._check_count()

    def _check_count(self) -> None:
        """Refuse a number of views that the mode does not have."""
        four = len(MIRRORS)
        if self.count == 1:
            return
        if self.mode == "mirrors" and self.count % four:
            raise UserError(
                f"{self.count} views are not {four} mirrors of each angle",
                where="--votes",
                cure=f"Give a multiple of {four}",
            )
        if self.mode == "legacy_cumulative" and self.count != four:
            raise UserError(
                f"PVKD's published code votes with {four} views, not {self.count}",
                where="--votes",
                cure=f"--votes {four}, or --vote-mode mirrors",
            )

    def chunk_on(self, device: torch.device) -> int:
        """``chunk``, or what suits the device."""
        return self.chunk or (1 if device.type == "cpu" else 4)

    def plan(self, context: Context) -> VotePlan:
        """The views of each scan."""
        e = context.experiment
        return VotePlan(self.count, self.mode, self.flips, e.eval.vote_augment, e.train.seed)

    def tally(self) -> Tally:
        """What the scores of views are added up in."""
        return Visits() if self.mode == "points" else Sums()

    def settings(self, context: Context) -> dict[str, Any]:
        """All that changes a voted prediction, as plain values; empty for one plain pass."""
        if self.count == 1:
            return {}
        settings: dict[str, Any] = {
            "count": self.count,
            "mode": self.mode,
            "sum": self.sum,
            "flips": self.flips,
        }
        if self.mode == "legacy_random":
            settings |= {"augment": context.experiment.eval.vote_augment.model_dump(mode="json")}
        if self.mode.startswith("legacy"):
            settings |= {"seed": context.experiment.train.seed}
        return settings


PLAIN = Votes()


def loader_and_predictor(
    context: Context,
    scans: ScanDataset,
    data: DataConfig,
    votes: Votes,
    indices: Sequence[int] | None = None,
) -> tuple[Any, Predictor]:
    """The loader of this rank's scans, and what makes predictions of its batches.

    Args:
        indices: positions of the scans wanted; None = all.
    """
    if votes.count == 1:
        chosen = ChosenScans(scans, data, range(len(scans)) if indices is None else indices)
        return context.loader_of(chosen, training=False), predictions
    if votes.mode == "points":
        check_visits(data, "--vote-mode points")
    samples = VoteSamples(
        scans, data, votes.plan(context), votes.chunk_on(context.world.device), indices
    )
    return context.loader_of(samples, training=False, batch_size=1), partial(
        voted_predictions, votes=votes
    )


def check_visits(data: DataConfig, option: str) -> None:
    """Refuse to show one point of each cell after the other to a network that reads the mean over all.

    Raises:
        UserError: ``data.cell_features`` is ``mean``.
    """
    if data.cell_features == "mean":
        raise UserError(
            "this network reads the mean over a voxel's points (data.cell_features), so that all passes are the same",
            where=option,
            cure="Leave it out",
        )


def voted_predictions(
    network: nn.Module,
    loader: Any,
    device: torch.device,
    autocast: Callable[[], Any],
    title: str,
    *,
    votes: Votes,
) -> Iterator[tuple[Batch, Tensor]]:
    """Like :func:`predictions`, one scan at a time: its first view, and what all views say.

    Args, errors: see :func:`voted_scores`.
    """
    for first, total, decided in voted_scores(
        network, loader, device, autocast, title, votes=votes
    ):
        yield first, winners(total, decided)


@torch.no_grad()
def voted_scores(
    network: nn.Module,
    loader: Any,
    device: torch.device,
    autocast: Callable[[], Any],
    title: str,
    *,
    votes: Votes,
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Yield of each scan its first view, the scores of its points summed over all views, and which points count.

    Args:
        loader: batches of views, those of a scan in a row (:class:`core.data.VoteSamples`). Sums are made in the order
            of the views, however they are cut into batches.

    Yields:
        the view; f32 [N, C - 1] without "ignore"; bool [N], see :func:`decided_points`.

    Raises:
        UserError: some views of a scan could not be made.
    """
    network = fold_batch_norm(network)  # a copy, in evaluation mode
    first: Batch | None = None
    decided: Tensor | None = None
    tally = votes.tally()
    for batch in tqdm(
        loader, desc=title, unit="batch", dynamic_ncols=True, disable=not sys.stderr.isatty()
    ):
        batch = batch.to(device)
        if first is None:
            first, tally = batch.take([0]), votes.tally()
        _check_scan(first, batch)
        with autocast():
            output = infer(network, batch)
        sizes = batch.point_offsets.diff().tolist()
        shown = shown_points(batch).split(sizes)
        for scores, mask in zip(point_scores(output, batch, votes), shown):
            tally.add(scores, mask)
        if decided is None:  # points of no cell are the same in all views
            decided = decided_points(output, batch)[: sizes[0]]
        if tally.seen == votes.count:
            yield first, tally.total(), decided
            first, decided = None, None


def _check_scan(first: Batch, batch: Batch) -> None:
    if others := set(batch.tokens) - set(first.tokens):
        raise UserError(
            f"some views of scan {first.tokens[0]} could not be made; {others.pop()} came in their place",
            cure="Set data.on_bad_sample: raise to see why",
        )


def point_scores(output: Output, batch: Batch, votes: Votes) -> Iterator[Tensor]:
    """F32 [N, C - 1] of each view, without "ignore", which is class 0; anything for points of no cell."""
    offsets = batch.point_offsets.tolist()
    decisions = output.point_decisions
    if decisions is not None:
        yield from _scores(decisions, votes).split(batch.point_offsets.diff().tolist())
        return
    scores = _scores(output.logits, votes)
    if len(scores) == 0:  # no cell at all
        scores = scores.new_zeros(1, scores.shape[1])
    rows = batch.cells.of_point.clamp_min(0)
    for start, end in pairwise(offsets):
        yield scores.index_select(0, rows[start:end])


def _scores(logits: Tensor, votes: Votes) -> Tensor:
    """F32 [R, C - 1]: what each row adds to the sums of the points."""
    scores = logits[:, IGNORE + 1 :].float()
    return scores if votes.sum == "logits" else scores.softmax(1)


def winners(total: Tensor, decided: Tensor) -> Tensor:
    """Choose the best class of summed scores f32 [N, C - 1], never "ignore": i64 [N], 0 where not ``decided``."""
    return torch.where(decided, total.argmax(1) + IGNORE + 1, IGNORE)
