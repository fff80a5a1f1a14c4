"""Write motion maps of scans that follow one another, for a column of dataset.columns with 'motion:'.

python prepare_motion.py CONFIG
python prepare_motion.py CONFIG --splits test
python prepare_motion.py CONFIG --dataset.columns.motion.motion.delay 0   # of the past alone

A point reads its cells when the scan is loaded. Poses are needed; labels are not read. Started again it goes on where
it stopped.
"""

from __future__ import annotations

import sys

from core.engine.run.cli import preparing_parser, read_arguments, run_command
from core.machine import usable_cores


def main() -> None:
    """Read the command line, write the maps, print how many and how large."""
    parser = preparing_parser(__doc__)
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train", "val"],
        choices=("train", "val", "test"),
        help="whose scans (train val)",
    )
    parser.add_argument("--column", help="name in dataset.columns (the only one of motion)")
    args, config = read_arguments(parser)
    workers = usable_cores(most=16) if args.workers is None else max(args.workers, 1)
    from core.data.motion_job import prepare_motion
    from core.engine.run.experiment import check_config

    check_config(config)
    report = prepare_motion(config, args.splits, args.column, workers)
    sys.stdout.write(f"{report.text()}\n")


if __name__ == "__main__":
    run_command(main)
