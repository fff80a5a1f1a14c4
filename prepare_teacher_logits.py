"""Write a trained network's logits at the points of a split, for distill.logits: one pass serves many students.

python prepare_teacher_logits.py configs/semantickitti/motionbev/wdcd_stored.yaml --checkpoint RUN

The network sees each scan as in its training, without augmentation; CONFIG says which scans, and in dataset.columns
where the files lie. Started again it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from core.engine.run.cli import read_arguments, run_command


def main() -> None:
    """Read the command line, write the logits, print how many."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Any key of the configuration can be overridden: --dataset.root FOLDER.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML file of the student's job")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="as evaluate.py takes it: a run folder, …"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--column", help="name in dataset.columns (that of distill.logits)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args, config = read_arguments(parser)
    from core.engine.run.distributed import World
    from core.engine.run.experiment import check_config
    from core.engine.score.teacher_logits import write_teacher_logits
    from core.errors import counted

    check_config(config)
    writer = write_teacher_logits(
        World(), config, args.checkpoint, split=args.split, name=args.column
    )
    first = writer.path(0)
    sys.stdout.write(f"logits of {counted(len(writer.scans), 'scan')}, the first in {first}\n")


if __name__ == "__main__":
    run_command(main)
