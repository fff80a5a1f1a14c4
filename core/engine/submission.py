"""``python -m core.engine.submission check|remap``; ``--help`` imports nothing that takes long."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.engine.run.cli import run_command
from core.errors import counted
from core.names import BENCHMARKS

__all__ = ["main"]

_DESCRIPTION = """\
Check and mend files for the benchmark servers; 'evaluate.py submit' writes them.

python -m core.engine.submission check DIR/submission.zip --dataset semantickitti --root DATA --split test
python -m core.engine.submission remap IN OUT --to raw
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
    check = jobs.add_parser("check", help="see whether the benchmark would take a folder or a zip")
    check.add_argument("path", type=Path, help="the folder that was given to --submit, or the zip")
    check.add_argument("--dataset", required=True, choices=tuple(BENCHMARKS))
    check.add_argument("--root", required=True, type=Path, help="folder of the data set")
    check.add_argument("--split", default="test", choices=("train", "val", "test"))
    check.add_argument("--version", default="v1.0-trainval", help="nuScenes: folder of the tables")
    check.add_argument("--labels", help="label space (default: the data set's own)")
    check.add_argument(
        "--partial", action="store_true", help="a rehearsal: only the scans that are on disk count"
    )
    change = jobs.add_parser("remap", help="rewrite .label files in other ids, into another folder")
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
    args = parser.parse_args(argv)
    from core.engine.score.submission import remap, show_faults
    from core.engine.score.submission_check import check_submission, open_split
    from core.labels import label_space

    if args.job == "remap":
        count = remap(args.source, args.target, args.to, label_space(args.label_space))
        sys.stdout.write(f"{counted(count, 'file')} remapped to {args.to} ids, in {args.target}\n")
        return
    scans = open_split(args.dataset, args.root, args.split, args.version, args.labels, args.partial)
    show_faults(args.path, check_submission(args.path, scans), scans)


if __name__ == "__main__":
    run_command(main)
