"""Score a checkpoint, predict scans of one's own, submit to a benchmark, or score under corruptions.

python evaluate.py score configs/synthetic/minkunet_demo.yaml --checkpoint runs/synthetic/minkunet_demo --report
python evaluate.py predict configs/nuscenes/spvcnn.yaml my_scans --checkpoint RUN --out predictions --preview
python evaluate.py submit configs/semantickitti/spvcnn.yaml --checkpoint RUN --votes 12 --out submissions/first
python evaluate.py robustness configs/semantickitti/spvcnn.yaml --checkpoint RUN --benchmark robo3d
"""

from __future__ import annotations

import sys

from core.engine.commands import evaluation_parser, job_of, read_evaluation
from core.engine.run import cli


def main() -> None:
    """Read the command line and evaluate."""
    args, config = read_evaluation(evaluation_parser(__doc__), sys.argv[1:])
    from core.engine.run.checkpoint import find_checkpoint
    from core.engine.run.run_dir import default_run_dir

    checkpoint = find_checkpoint(args.checkpoint, "--checkpoint")
    job, targets = job_of(args, args.run_dir or default_run_dir(config, args.config))
    cli.run_distributed(job, config, checkpoint, *targets)


if __name__ == "__main__":
    cli.run_command(main)
