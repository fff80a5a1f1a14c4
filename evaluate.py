"""Score a checkpoint on every raw point of a split, also under corruptions, predict scans of one's own, or submit.

python evaluate.py configs/synthetic/minkunet_demo.yaml --checkpoint runs/.../max-iou-val-vox.pt --json scores.json
python evaluate.py configs/nuscenes/spvcnn.yaml --checkpoint CHECKPOINT --predict my_scans --out predictions --preview
python evaluate.py configs/semantickitti/spvcnn.yaml --checkpoint CHECKPOINT --votes 12 --submit submissions/first
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from core.engine.run import cli
from core.engine.score import options


def main() -> None:
    """Read the command line and evaluate."""
    parser = cli.config_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint file of a run")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="scored: val; submitted: test"
    )
    parser.add_argument(
        "--json", type=Path, help="where to write the scores (default: in the run folder)"
    )
    options.add_report_options(parser)
    options.add_vote_options(parser)
    options.add_prediction_options(parser)
    cli.add_profile_option(parser)
    options.add_robustness_options(parser)
    args, config = cli.read_arguments(parser)
    from core.engine.run.run_dir import default_run_dir

    split, votes = options.checked_split(parser, args), options.read_votes(args)
    targets = [args.run_dir or default_run_dir(config, args.config)]
    if args.submit is not None:
        from core.engine.score.submission import submit_checkpoint

        job, targets = partial(submit_checkpoint, split=split, votes=votes), [args.submit]
    elif args.predict is not None:
        from core.engine.score.prediction import predict_checkpoint

        chosen = {
            "format": args.format,
            "point_fields": args.point_fields,
            "preview": args.preview,
            "votes": votes,
        }
        job, targets = partial(predict_checkpoint, **chosen), [args.predict, args.out]
    elif args.profile is not None:
        from core.engine.train.profiling import profile_evaluation

        job = partial(profile_evaluation, split=split, steps=args.profile)
    elif args.robustness is not None:
        from core.engine.score.robustness import evaluate_robustness

        chosen = {
            "kinds": args.kinds,
            "root": args.robustness_root,
            "keep_labels": args.keep_labels,
            "votes": votes,
        }
        job = partial(
            evaluate_robustness, profile=args.robustness, split=split, json_path=args.json, **chosen
        )
    else:
        from core.engine.score.jobs import evaluate_checkpoint

        chosen = {"json_path": args.json, "report": args.report, "beside": dict(args.beside)}
        job = partial(evaluate_checkpoint, split=split, votes=votes, **chosen)
    cli.run_distributed(job, config, args.checkpoint, *targets)


if __name__ == "__main__":
    cli.run_command(main)
