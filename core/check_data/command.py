"""The command line of ``core.check_data``; ``--help`` imports nothing that takes long."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import load_config
from core.errors import UserError
from core.io import write_json

if TYPE_CHECKING:
    from core.check_data.inspection import SplitReport

__all__ = ["main"]

_DESCRIPTION = """\
Name every missing or damaged part of a data set and count what is there.

python -m core.check_data configs/semantickitti/minkunet.yaml
python -m core.check_data configs/nuscenes/spvcnn.yaml --quick --splits train val test --json report.json

Files are read as a job of this configuration reads them. Exit code 0: a job can use all of it. 2: something it needs is
missing, damaged, without a label, or less than the official split (see dataset.partial); or the configuration is wrong.
"""
_SPLITS = ("train", "val", "test")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m core.check_data",
        description=_DESCRIPTION,
        epilog="Any key of the configuration can be overridden: --dataset.root FOLDER.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML file of a job, or configs/<dataset>/default.yaml")
    parser.add_argument(
        "--splits", nargs="+", choices=_SPLITS, default=["train", "val"], help="default: train val"
    )
    parser.add_argument("--quick", action="store_true", help="compare file sizes, read nothing")
    parser.add_argument(
        "--cameras", action="store_true", help="images are required, and decoded unless --quick"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the report as JSON (docs/data.md)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: code 2, something a job needs is missing, damaged or unlabelled.
        UserError: the configuration is wrong.
    """
    args, overrides = _parser().parse_known_args(argv)
    from core.check_data.report import exit_code, for_machines, refused, verdict

    try:
        reports = _inspect(args, overrides)
    except UserError as error:
        if args.json:
            write_json(args.json, refused(error))
        raise
    if args.json:
        write_json(args.json, for_machines(reports))
    sys.stdout.write(verdict(reports))
    code = exit_code(reports)
    if code:
        raise SystemExit(code)


def _inspect(args: argparse.Namespace, overrides: Sequence[str]) -> list[SplitReport]:
    """Look at the splits, and print each as soon as it is done."""
    from core.check_data.inspection import inspect_split
    from core.check_data.report import text_of
    from core.engine.run.experiment import check_config

    config = load_config(args.config, overrides)
    check_config(config)
    reports = []
    for split in args.splits:
        report = inspect_split(config, split, quick=args.quick, cameras=args.cameras)
        sys.stdout.write(text_of(report))
        sys.stdout.flush()
        reports.append(report)
    return reports
