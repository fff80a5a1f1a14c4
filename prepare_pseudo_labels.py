"""Label the scans that dataset.labelled leaves without labels, for dataset.pseudo_labels.

python prepare_pseudo_labels.py configs/semantickitti/minkunet.yaml --source poses --out data/pseudo \\
    --dataset.labelled '{fraction: 0.1, by: frame}'

Classes that never move are carried from labelled scans to the others through poses. Started again it goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from core.engine.run.cli import read_arguments, run_command
from core.machine import usable_cores


def main() -> None:
    """Read the command line, write the labels, print how many there are and how right they are."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Any key of the configuration can be overridden: --dataset.root FOLDER.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML file of a job, or configs/<dataset>/default.yaml")
    parser.add_argument("--source", choices=["poses"], default="poses", help="who labels")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder to write")
    parser.add_argument("--radius", type=float, default=0.5, help="m, farthest point that speaks")
    parser.add_argument("--scans", type=int, default=5, help="labelled scans that vote")
    parser.add_argument("--reach", type=float, default=60, help="m, farthest scan that votes")
    parser.add_argument("--movable", action="store_true", help="carry classes that may move, too")
    parser.add_argument("--workers", type=int, help="processes (one per processor)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args, config = read_arguments(parser)
    workers = usable_cores(most=16) if args.workers is None else max(args.workers, 1)
    from core.data.pseudo.job import label_by_poses
    from core.engine.run.experiment import check_config

    check_config(config)
    options = {key: getattr(args, key) for key in ("radius", "scans", "reach", "movable")}
    report = label_by_poses(config, args.out, options, workers)
    sys.stdout.write(f"{report.text()}\nin {args.out}\n")


if __name__ == "__main__":
    run_command(main)
