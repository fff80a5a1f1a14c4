"""Stage 1: train any LiDAR-only network with labels.

    python train_teacher.py configs/synthetic/minkunet_demo.yaml
    torchpack dist-run -np 4 python train_teacher.py configs/nuscenes/spvcnn.yaml --run-dir runs/nuscenes/spvcnn

The same command started again continues from the newest checkpoint.
"""

from __future__ import annotations

from functools import partial

from core.engine.run.cli import (
    add_profile_option,
    config_parser,
    read_arguments,
    run_command,
    run_distributed,
)


def main() -> None:
    """Read the command line and train."""
    parser = config_parser(__doc__)
    add_profile_option(parser)
    args, config = read_arguments(parser)
    from core.engine.run.run_dir import default_run_dir
    from core.engine.train.jobs import train_teacher

    job = partial(train_teacher, profile=args.profile)
    run_distributed(job, config, args.run_dir or default_run_dir(config, args.config))


if __name__ == "__main__":
    run_command(main)
