"""Before the labels: train a LiDAR network with image features alone (slidr, ppkt, scalr).

    python prepare_superpixels.py configs/synthetic/slidr/minkunet.yaml
    python pretrain.py configs/synthetic/slidr/minkunet.yaml

The weights are RUN/model.pt; train_teacher.py begins with them under train.init_from.

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
    from core.engine.train.jobs import pretrain

    job = partial(pretrain, profile=args.profile)
    run_distributed(job, config, args.run_dir or default_run_dir(config, args.config))


if __name__ == "__main__":
    run_command(main)
