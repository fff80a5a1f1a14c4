"""Score a checkpoint on every raw point of a split.

python evaluate.py configs/synthetic/minkunet_laptop.yaml --checkpoint runs/.../max-iou-val-vox.pt --json scores.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from core.engine.cli import config_parser, read_arguments, run_command, run_distributed


def main() -> None:
    """Read the command line and evaluate."""
    parser = config_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint file of a run")
    parser.add_argument("--split", default="val", choices=("train", "val"), help="which split to score")
    parser.add_argument("--json", type=Path, help="where to write the scores (default: in the run folder)")
    parser.add_argument("--report", action="store_true", help="write report.html too")
    args, config = read_arguments(parser)
    from core.engine.jobs import evaluate_checkpoint
    from core.engine.run_dir import default_run_dir

    job = partial(evaluate_checkpoint, split=args.split, json_path=args.json, report=args.report)
    run_distributed(job, config, args.checkpoint, args.run_dir or default_run_dir(config, args.config))


if __name__ == "__main__":
    run_command(main)
