"""Stage 2: distil a trained teacher into a student; the YAML's ``distill`` section names the method.

    python train_student.py configs/synthetic/u2mkd/full.yaml --teacher_pretrain runs/synthetic/teacher
    torchpack dist-run -np 4 python train_student.py configs/nuscenes/u2mkd/a.yaml --teacher_pretrain runs/…

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
    from core.engine.train.jobs import train_student

    job = partial(train_student, profile=args.profile)
    run_distributed(job, config, args.run_dir or default_run_dir(config, args.config))


if __name__ == "__main__":
    run_command(main)
