"""Score a checkpoint on every raw point of a split, or predict scans of one's own.

python evaluate.py configs/synthetic/minkunet_laptop.yaml --checkpoint runs/.../max-iou-val-vox.pt --json scores.json
python evaluate.py configs/nuscenes/spvcnn.yaml --checkpoint CHECKPOINT --predict my_scans --out predictions --preview
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from core.engine.cli import add_profile_option, config_parser, read_arguments, run_command, run_distributed


def main() -> None:
    """Read the command line and evaluate."""
    parser = config_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint file of a run")
    parser.add_argument("--split", default="val", choices=("train", "val"), help="which split to score")
    parser.add_argument("--json", type=Path, help="where to write the scores (default: in the run folder)")
    parser.add_argument("--report", action="store_true", help="write report.html too")
    add_profile_option(parser)
    predict = parser.add_argument_group("prediction, in place of a score")
    predict.add_argument("--predict", metavar="IN", help="folder of .bin or .npy scans, or split:train|val|test")
    predict.add_argument("--out", type=Path, metavar="DIR", help="folder of the predictions; an old one is completed")
    predict.add_argument("--format", choices=("semantickitti", "nuscenes", "npy"), help="default: as the label space")
    predict.add_argument("--point-fields", type=int, metavar="N", help="values per point in IN's .bin files")
    predict.add_argument("--preview", action="store_true", help="draw the first scan from above, DIR/preview.png")
    args, config = read_arguments(parser)
    from core.engine.run_dir import default_run_dir

    if args.predict is not None:
        from core.engine.prediction import predict_checkpoint

        if args.out is None:
            parser.error("--predict needs --out DIR")
        options = {"format": args.format, "point_fields": args.point_fields, "preview": args.preview}
        run_distributed(partial(predict_checkpoint, **options), config, args.checkpoint, args.predict, args.out)
        return
    if args.profile is not None:
        from core.engine.profiling import profile_evaluation

        job = partial(profile_evaluation, split=args.split, steps=args.profile)
    else:
        from core.engine.jobs import evaluate_checkpoint

        job = partial(evaluate_checkpoint, split=args.split, json_path=args.json, report=args.report)
    run_distributed(job, config, args.checkpoint, args.run_dir or default_run_dir(config, args.config))


if __name__ == "__main__":
    run_command(main)
