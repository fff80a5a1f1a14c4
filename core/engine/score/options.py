"""Options of ``evaluate.py``: report, votes, prediction, submission, robustness."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.engine.score.voting import Votes

__all__ = [
    "add_prediction_options",
    "add_report_options",
    "add_robustness_options",
    "add_vote_options",
    "checked_split",
    "read_votes",
]


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """``--report`` and ``--beside``."""
    parser.add_argument("--report", action="store_true", help="write report.html too")
    parser.add_argument(
        "--beside",
        type=_named_file,
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="another network's scores for the report, e.g. teacher=runs/…/evaluation-val.json; may be repeated",
    )


def _named_file(text: str) -> tuple[str, Path]:
    """``NAME=FILE`` of an option."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, got '{text}'")
    return name, Path(path)


def add_vote_options(parser: argparse.ArgumentParser) -> None:
    """``--votes`` and what belongs to it."""
    group = parser.add_argument_group(
        "votes (test-time augmentation), for a score, a prediction or a submission"
    )
    group.add_argument(
        "--votes", type=int, default=1, metavar="N", help="views of each scan that decide together"
    )
    group.add_argument(
        "--vote-mode",
        default="fixed",
        choices=("fixed", "legacy_random"),
        help="N equal steps about z, or views drawn as in 2DPASS (eval.vote_augment)",
    )
    group.add_argument(
        "--vote-flips", action="store_true", help="fixed: every second view is mirrored"
    )
    group.add_argument(
        "--vote-sum", default="softmax", choices=("softmax", "logits"), help="what is added up"
    )
    group.add_argument(
        "--vote-chunk", type=int, metavar="M", help="views at a time (GPU: 4, processor: 1)"
    )


def read_votes(args: argparse.Namespace) -> Votes:
    """What the vote options ask for.

    Raises:
        UserError: no such number of views, or options that do not go together.
    """
    from core.engine.score.voting import Votes

    return Votes(args.votes, args.vote_mode, args.vote_sum, args.vote_chunk, args.vote_flips)


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """``--predict`` and ``--submit``, and what belongs to them."""
    group = parser.add_argument_group(
        "prediction, in place of a score; a job that was killed goes on"
    )
    group.add_argument(
        "--submit",
        type=Path,
        metavar="DIR",
        help="write and check a submission of --split (or test)",
    )
    group.add_argument(
        "--predict", metavar="IN", help="folder of .bin or .npy scans, or split:train|val|test"
    )
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the predictions; an old one is completed"
    )
    group.add_argument(
        "--format", choices=("semantickitti", "nuscenes", "npy"), help="default: as the label space"
    )
    group.add_argument(
        "--point-fields", type=int, metavar="N", help="values per point in IN's .bin files"
    )
    group.add_argument(
        "--preview", action="store_true", help="draw the first scan from above, DIR/preview.png"
    )


def checked_split(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """The split that ``evaluate.py`` is to read; options that do not go together end the command."""
    if args.votes > 1 and args.profile is not None:
        parser.error("--votes goes with a score, a prediction or a submission")
    if args.predict is not None and args.out is None:
        parser.error("--predict needs --out DIR")
    if args.split == "test" and args.submit is None:
        parser.error("the test split has no labels to score; see --submit and --predict split:test")
    return args.split or ("val" if args.submit is None else "test")


def add_robustness_options(parser: argparse.ArgumentParser) -> None:
    """``--robustness`` and what belongs to it."""
    group = parser.add_argument_group(
        "robustness, in place of a score; a job that was killed goes on"
    )
    group.add_argument(
        "--robustness",
        choices=("semantickitti-c", "robo3d"),
        help="score clean and corrupted scans",
    )
    group.add_argument(
        "--kinds",
        nargs="+",
        metavar="NAME",
        help="corruptions: types (fog) or single ones (fog_heavy)",
    )
    group.add_argument(
        "--robustness-root",
        type=Path,
        metavar="DIR",
        help="published corrupted scans (default: made)",
    )
    group.add_argument(
        "--keep-labels", action="store_true", help="points of local distortion keep their class"
    )
