"""Score a checkpoint, predict scans of one's own or as they come, submit to a benchmark, or score under corruptions.

python evaluate.py score configs/synthetic/minkunet_demo.yaml --checkpoint runs/synthetic/minkunet_demo --report
python evaluate.py predict my_scans --checkpoint RUN --out predictions --preview
python evaluate.py stream scanner_output --checkpoint RUN --follow
python evaluate.py submit configs/semantickitti/spvcnn.yaml --checkpoint RUN --votes 12 --out submissions/first
python evaluate.py robustness configs/semantickitti/spvcnn.yaml --checkpoint RUN --benchmark robo3d

Network and view of the scans are those of the checkpoint; without CONFIG so is the data set. What CONFIG or the command
line says otherwise is applied, and named in a warning.
"""

from __future__ import annotations

import sys

from core.engine.commands import job_of, read_evaluation, run_folder
from core.engine.evaluation_options import evaluation_parser
from core.engine.run import cli


def main() -> None:
    """Read the command line and evaluate."""
    args, config = read_evaluation(evaluation_parser(__doc__), sys.argv[1:])
    job, targets = job_of(args, run_folder(args, config))
    cli.run_distributed(job, config, args.checkpoint, *targets)


if __name__ == "__main__":
    cli.run_command(main)
