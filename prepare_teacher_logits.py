"""Write a trained network's logits at the points of a split, for distill.logits: one pass serves many students.

python prepare_teacher_logits.py configs/semantickitti/motionbev/wdcd_stored.yaml --checkpoint RUN

The network sees each scan as in its training, without augmentation; CONFIG says which scans, and in dataset.columns
where the files lie. Started again it goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.engine.run.cli import preparing_parser, read_arguments, run_command


def main() -> None:
    """Read the command line, write the logits, print how many."""
    parser = preparing_parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="as evaluate.py takes it: a run folder, …"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--column", help="name in dataset.columns (that of distill.logits)")
    parser.add_argument(
        "--visits",
        type=int,
        default=1,
        metavar="N",
        help="passes over each scan, of which each shows another point of every voxel; their mean is written",
    )
    args, config = read_arguments(parser)
    if args.visits < 1:
        parser.error(f"--visits has to be 1 or more, not {args.visits}")
    from core.engine.run.distributed import World
    from core.engine.run.experiment import check_config
    from core.engine.score.teacher_logits import write_teacher_logits
    from core.errors import counted

    check_config(config)
    writer = write_teacher_logits(
        World(),
        config,
        args.checkpoint,
        split=args.split,
        name=args.column,
        workers=args.workers,
        visits=args.visits,
    )
    first = writer.path(0)
    sys.stdout.write(f"logits of {counted(len(writer.scans), 'scan')}, the first in {first}\n")


if __name__ == "__main__":
    run_command(main)
