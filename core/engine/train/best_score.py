"""The score of a run's best weights: as it stands in the run folder, or made anew."""

from __future__ import annotations

from pathlib import Path

from core.datasets.base import ScanDataset
from core.decode import kept
from core.engine.run.context import Context
from core.engine.run.distributed import from_rank_zero
from core.engine.score.jobs import evaluate_checkpoint, print_result, scored_by
from core.io import sha256
from core.metrics import EvaluationResult

__all__ = ["best_score"]

_SCORE = "evaluation-val.json"  # in the run folder


def best_score(
    context: Context, val_set: ScanDataset, best: Path, run_path: Path
) -> EvaluationResult:
    """Score the best weights and write the report, unless the folder holds both."""
    result = from_rank_zero(lambda: _scored_before(context, val_set, best, run_path))
    if result is None:
        return evaluate_checkpoint(context.world, context.config, best, run_path, report=True)
    if context.world.rank == 0:
        print_result(result, run_path / "report.html", context.experiment.eval.legacy_metric)
    return result


def _scored_before(
    context: Context, val_set: ScanDataset, best: Path, run_path: Path
) -> EvaluationResult | None:
    """The score in the run folder, where it is one of these weights, settings, scans and labels, and has its report."""
    path = run_path / _SCORE
    if not path.is_file() or not (run_path / "report.html").is_file():
        return None
    saved = kept(lambda: EvaluationResult.read(path))
    if saved is None:
        return None
    same = {**saved.extra, **scored_by(context, val_set)} == saved.extra
    if not same or saved.votes != 1 or saved.checkpoint_sha256 != sha256(best):
        return None
    return saved
