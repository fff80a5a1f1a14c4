"""Scores that ``--json`` wrote on another machine or another day, counted beside those of this folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.gain.summary import Score, Summary
from core.decode import read_json
from core.errors import UserError

__all__ = ["take_in"]

K = TypeVar("K")
V = TypeVar("V")
OTHER = "Leave one of the two out, or delete the runs that are wrong"


@dataclass(frozen=True)
class _Stored:
    """What is read of such a file; see :meth:`Summary.to_json`."""

    experiment: str
    teachers: dict[str, dict[int, float]]
    answers: dict[str, dict[int, dict[str, Any]]]
    pseudo_labels: dict[str, dict[str, dict[int, dict[str, Any]]]]
    scores: list[Score]


def take_in(summary: Summary, paths: Iterable[Path]) -> None:
    """Add the scores of files to a summary: of its arms, budgets and views, and of any seed.

    Raises:
        UserError: a file is of an experiment with other contents, or says something else than what is known already.
    """
    for path in paths:
        stored = read_json(path, _Stored)
        if stored.experiment != summary.identity:
            raise UserError(
                "these scores are of another experiment, or of this one before its YAML was changed",
                where=str(path),
                cure="Give the options that it was made with, or run it again",
            )
        _scores(summary, stored.scores, str(path))
        for budget in summary.budgets:
            _join(summary.teachers, budget, stored.teachers, str(path))
            _join(summary.quality, budget, stored.answers, str(path))
            for arm in {line.arm for line in summary.lines} & stored.pseudo_labels.keys():
                of_arm = summary.pseudo.setdefault(arm, {})
                _join(of_arm, budget, stored.pseudo_labels[arm], str(path))


def _scores(summary: Summary, scores: Iterable[Score], where: str) -> None:
    lines = {(line.arm, line.part) for line in summary.lines}
    known = {_key(score): score for score in summary.scores}
    for score in scores:
        wanted = (score.arm, score.part) in lines and score.budget in summary.budgets
        if not wanted or score.view not in summary.views:
            continue
        here = known.get(_key(score))
        if here is None:
            summary.scores.append(score)
        elif here.miou != score.miou:
            _differ(f"{score.arm}, {score.budget} of the labels, seed {score.seed}", where)


def _key(score: Score) -> tuple[object, ...]:
    return score.arm, score.part, score.budget, score.seed, score.view


def _join(ours: dict[K, dict[int, V]], key: K, theirs: dict[K, dict[int, V]], where: str) -> None:
    """Add what is known by seed."""
    for seed, value in theirs.get(key, {}).items():
        if ours.setdefault(key, {}).setdefault(seed, value) != value:
            _differ(f"the teacher or its labels, {key}, seed {seed}", where)


def _differ(what: str, where: str) -> None:
    raise UserError(f"{what}: it is known here with another score", where=where, cure=OTHER)
