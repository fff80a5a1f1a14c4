"""Label the scans that dataset.labelled leaves without labels, for dataset.pseudo_labels.

python prepare_pseudo_labels.py configs/semantickitti/every_tenth.yaml
python prepare_pseudo_labels.py configs/semantickitti/minkunet.yaml --source both --checkpoint RUN --out labels \\
    --dataset.labelled '{fraction: 0.1, by: frame}'

poses: classes that do not move are carried from labelled scans to the others through poses. teacher: a trained network
(--checkpoint) labels, which sees the scans as in its training. both: poses, and the network where they say nothing.
Started again it goes on where it stopped. Folder, coverage and accuracy are told at the end, and in pseudo_labels.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from core.config import Config
from core.engine.run.cli import preparing_parser, read_arguments, run_command
from core.errors import UserError
from core.machine import usable_cores

_POSES = ("radius", "scans", "reach", "movable")
_TEACHER = ("checkpoint", "votes")
_OTHERS = {"poses": _TEACHER, "teacher": _POSES, "both": ()}  # options of no effect


def main() -> None:
    """Read the command line, write the labels, print how many there are and how right they are."""
    parser = preparing_parser(__doc__)
    parser.add_argument("--source", choices=tuple(_OTHERS), default="poses", help="who labels")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (dataset.pseudo_labels of CONFIG)"
    )
    poses = parser.add_argument_group("poses")
    poses.add_argument("--radius", type=float, help="m, farthest point that speaks (0.5)")
    poses.add_argument("--scans", type=int, help="labelled scans that vote (5)")
    poses.add_argument("--reach", type=float, help="m, farthest scan that votes (60)")
    poses.add_argument(
        "--movable", action="store_true", default=None, help="carry classes that may move, too"
    )
    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--checkpoint", type=Path, help="as evaluate.py takes it: a run folder, …")
    teacher.add_argument("--votes", type=int, help="passes over each scan that decide together (1)")
    args, config = read_arguments(parser)
    _check(args)
    out = _out(args, config)
    workers = usable_cores(most=16) if args.workers is None else max(args.workers, 1)
    options = {key: getattr(args, key) for key in _POSES if getattr(args, key) is not None}
    from core.engine.run.experiment import check_config

    check_config(config)
    if args.source == "poses":
        from core.data.pseudo.job import label_by_poses

        report = label_by_poses(config, out, options, workers)
    else:
        from core.engine.run.distributed import World
        from core.engine.score.pseudo_labels import label_by_network

        report = label_by_network(
            World(),
            config,
            out,
            args.checkpoint,
            votes=1 if args.votes is None else args.votes,
            poses=options if args.source == "both" else None,
            workers=workers,
        )
    sys.stdout.write(f"{report.text()}\nin {out}\n")


def _out(args: argparse.Namespace, config: Config) -> Path:
    """The folder to write: ``--out``, or where a training of this configuration looks for it."""
    if args.out is not None:
        return Path(args.out)
    folder = config.get("dataset.pseudo_labels")
    if folder is None:
        raise UserError(
            "nothing says where the labels go",
            where="command line, --out",
            cure="Give --out FOLDER, or set dataset.pseudo_labels",
        )
    return Path(str(folder))


def _check(args: argparse.Namespace) -> None:
    """Refuse options of no effect, and a network that is asked and not named."""
    for key in _OTHERS[args.source]:
        if getattr(args, key) is not None:
            raise UserError(
                f"--{key} has no effect on --source {args.source}",
                where=f"command line, --{key}",
                cure="Leave it out, or choose --source both",
            )
    if args.source != "poses" and args.checkpoint is None:
        raise UserError(
            f"--source {args.source} asks a trained network, and none is named",
            where="command line, --checkpoint",
            cure="Give its run folder, a checkpoint or an exported .safetensors",
        )


if __name__ == "__main__":
    run_command(main)
