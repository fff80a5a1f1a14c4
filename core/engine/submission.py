"""``python -m core.engine.submission check|remap|moving-score|waymo-…``; ``--help`` imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from core.engine.run.cli import run_command
from core.errors import counted
from core.names import BENCHMARKS

__all__ = ["main"]

_DESCRIPTION = """\
Check and mend files for the benchmark servers; 'evaluate.py submit' writes them.

python -m core.engine.submission check DIR/submission.zip --dataset semantickitti --root DATA --split test
python -m core.engine.submission remap IN OUT --to raw
python -m core.engine.submission moving-score DIR --root DATA
python -m core.engine.submission waymo-truth --root DATA --split val --out truth.bin
python -m core.engine.submission waymo-score truth.bin DIR
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: the benchmark would not take the submission, or a file or an option is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.engine.submission",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    jobs = parser.add_subparsers(dest="job", required=True)
    _add_check(jobs.add_parser("check", help="see whether the benchmark would take a submission"))
    _add_remap(jobs.add_parser("remap", help="rewrite .label files in other ids, elsewhere"))
    _add_moving(jobs.add_parser("moving-score", help="score what moves in SemanticKITTI's files"))
    _add_truth(jobs.add_parser("waymo-truth", help="labels of a split for Waymo's metric tool"))
    _add_score(jobs.add_parser("waymo-score", help="score Waymo's files as its metric tool does"))
    args = parser.parse_args(argv)
    _JOBS[args.job](args)


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument(
        "path", type=Path, help="the folder that was given to submit, or what is uploaded of it"
    )
    check.add_argument("--dataset", required=True, choices=tuple(BENCHMARKS))
    check.add_argument("--root", required=True, type=Path, help="folder of the data set")
    check.add_argument("--split", default="test", choices=("train", "val", "test"))
    check.add_argument("--version", default="v1.0-trainval", help="nuScenes: folder of the tables")
    check.add_argument(
        "--test-frames", type=Path, metavar="FILE", help="Waymo: list of the test split's frames"
    )
    check.add_argument("--labels", help="label space (default: the data set's own)")
    check.add_argument(
        "--partial", action="store_true", help="a rehearsal: only the scans that are on disk count"
    )


def _add_remap(change: argparse.ArgumentParser) -> None:
    change.add_argument("source", type=Path, metavar="IN")
    change.add_argument("target", type=Path, metavar="OUT")
    direction = change.add_mutually_exclusive_group(required=True)
    direction.add_argument("--to", choices=("raw", "train"), help="raw: for a submission")
    direction.add_argument(
        "--inverse", dest="to", action="store_const", const="raw", help="the same as --to raw"
    )
    change.add_argument(
        "--label-space", default="semantickitti", help="a built-in one or a YAML file"
    )


def _add_moving(score: argparse.ArgumentParser) -> None:
    score.add_argument(
        "predictions", type=Path, metavar="DIR", help="holds sequences/NN/predictions/*.label"
    )
    score.add_argument("--root", required=True, type=Path, help="folder of the data set")
    score.add_argument("--split", default="val", choices=("train", "val"))
    score.add_argument(
        "--labels", default="semantickitti_movable", help="label space with a class 'moving'"
    )
    score.add_argument(
        "--partial", action="store_true", help="only the scans that are on disk count"
    )
    score.add_argument("--json", type=Path, help="where to write the scores")


def _add_truth(truth: argparse.ArgumentParser) -> None:
    truth.add_argument("--root", required=True, type=Path, help="folder of the data set")
    truth.add_argument("--split", default="val", choices=("train", "val"))
    truth.add_argument("--out", required=True, type=Path, metavar="FILE")


def _add_score(score: argparse.ArgumentParser) -> None:
    of_files = "a SegmentationFrameList or a submission, or a folder of them"
    score.add_argument("truth", type=Path, metavar="TRUTH", help=of_files)
    score.add_argument("predictions", type=Path, metavar="PREDICTIONS", help=of_files)
    score.add_argument("--json", type=Path, help="where to write the score")


def _check(args: argparse.Namespace) -> None:
    from core.engine.score.submission_check import check_submission, open_split
    from core.engine.score.submission_verdict import show_faults

    scans = open_split(
        args.dataset,
        args.root,
        args.split,
        args.version,
        args.labels,
        args.partial,
        args.test_frames,
    )
    show_faults(args.path, check_submission(args.path, scans), scans)


def _remap(args: argparse.Namespace) -> None:
    from core.engine.score.submission import remap
    from core.labels import label_space

    count = remap(args.source, args.target, args.to, label_space(args.label_space))
    sys.stdout.write(f"{counted(count, 'file')} remapped to {args.to} ids, in {args.target}\n")


def _moving(args: argparse.Namespace) -> None:
    from core.config import Config
    from core.engine.score.moving import moving_line
    from core.engine.score.moving_files import score_files
    from core.io import write_json

    section = {
        "name": "semantickitti",
        "root": str(args.root),
        "labels": args.labels,
        "cameras": [],
        "partial": args.partial,
    }
    config = Config({"dataset": section}, source="command line")
    result = score_files(args.predictions, config, args.split)
    if args.json is not None:
        write_json(args.json, result.to_json())
    sys.stdout.write(f"{moving_line(result)} on {result.scored}\n")


def _truth(args: argparse.Namespace) -> None:
    from core.config import Config
    from core.datasets import build_dataset
    from core.datasets.waymo.scoring.cells import CellSplit
    from core.datasets.waymo.scoring.truth import write_truth

    section = {"name": "waymo", "root": str(args.root)}
    scans = build_dataset(Config({"dataset": section}, source="command line"), args.split)
    write_truth(cast(CellSplit, scans), args.out)
    sys.stdout.write(f"labels of {counted(len(scans), 'frame')}, in {args.out}\n")


def _score(args: argparse.Namespace) -> None:
    from core.datasets.waymo.scoring.score import score_files
    from core.io import write_json
    from core.labels import WAYMO

    score = score_files(args.truth, args.predictions)
    if args.json is not None:
        write_json(args.json, score.to_json(WAYMO.classes))
    sys.stdout.write(f"{score.told(WAYMO.classes)}\n")


_JOBS = {
    "check": _check,
    "remap": _remap,
    "moving-score": _moving,
    "waymo-truth": _truth,
    "waymo-score": _score,
}


if __name__ == "__main__":
    run_command(main)
