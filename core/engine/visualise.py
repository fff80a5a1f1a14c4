"""Pages and pictures to look at: what moves in a sequence, motion maps, what an embedding takes for alike.

python -m core.engine.visualise moving DIR --root DATA
python -m core.engine.visualise motion CONFIG --scan TOKEN
python -m core.engine.visualise similarity --checkpoint RUN
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from core.engine.run.cli import run_command
from core.errors import UserError

__all__ = ["main"]

_OVERRIDE = re.compile(r"--[A-Za-z_]\w*\.[\w.]+(=|$)")  # section.key
_DESCRIPTION = """Pages and pictures to look at.

python -m core.engine.visualise moving DIR --root DATA --sequence 08
python -m core.engine.visualise motion CONFIG --scan 08/000012
python -m core.engine.visualise similarity --checkpoint RUN --scan 0
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: a file or an option is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.engine.visualise",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    jobs = parser.add_subparsers(dest="job", required=True)
    _add_moving(
        jobs.add_parser("moving", help="step through a sequence: what moves, what of it was found")
    )
    _add_motion(jobs.add_parser("motion", help="draw the motion channels of a scan"))
    _add_similarity(
        jobs.add_parser(
            "similarity", help="ask points and pixels of a pre-training for what is like them"
        )
    )
    given, overrides = _without_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(given)
    if overrides and not hasattr(args, "config"):
        parser.error(f"{args.job} knows no option {overrides[0]}")
    _JOBS[args.job](args, overrides)


def _without_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line's own words, and overrides of the configuration: argparse would take their values for CONFIG."""
    given: list[str] = []
    overrides: list[str] = []
    value = False  # the word is the value of the override before it
    for word in argv:
        override = _OVERRIDE.match(word) is not None
        if value or override:
            overrides.append(word)
        else:
            given.append(word)
        value = override and "=" not in word
    return given, overrides


def _add_moving(moving: argparse.ArgumentParser) -> None:
    moving.add_argument(
        "predictions",
        type=Path,
        metavar="DIR",
        help="holds sequences/NN/predictions/*.label, or is the run that 'evaluate.py predict split:val' was asked of",
    )
    moving.add_argument("--root", required=True, type=Path, help="folder of the data set")
    moving.add_argument("--split", default="val", choices=("train", "val"))
    moving.add_argument(
        "--labels", default="semantickitti_movable", help="label space with a class 'moving'"
    )
    moving.add_argument("--sequence", metavar="NN", help="one of the split's (default: all)")
    moving.add_argument("--first", type=int, default=0, metavar="N", help="pass over N scans")
    moving.add_argument("--count", type=int, default=200, metavar="N", help="at most N scans")
    moving.add_argument("--every", type=int, default=1, metavar="N", help="one scan in N")
    moving.add_argument(
        "--extent", type=float, default=50.0, metavar="M", help="metres from the sensor to the edge"
    )
    moving.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of page, pictures and film (DIR/moving)"
    )
    moving.add_argument(
        "--film", choices=("webp", "gif", "png", "none"), default="webp", help="moving.webp, …"
    )
    moving.add_argument(
        "--rate", type=float, default=10.0, metavar="N", help="scans per second of the film"
    )


def _add_motion(motion: argparse.ArgumentParser) -> None:
    motion.add_argument("config", metavar="CONFIG", help="YAML file with a column of motion")
    motion.add_argument("--split", default="val", choices=("train", "val", "test"))
    motion.add_argument("--scan", required=True, metavar="TOKEN", help="e.g. 08/000012")
    motion.add_argument("--column", help="name in dataset.columns (the only one of motion)")
    motion.add_argument("--out", type=Path, default=Path("motion.png"), metavar="FILE", help="PNG")


def _motion(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from core.config import load_config
    from core.engine.score.motion_view import show_motion

    show_motion(load_config(args.config, overrides), args.split, args.scan, args.out, args.column)
    sys.stdout.write(f"{args.out}\n")


def _add_similarity(similarity: argparse.ArgumentParser) -> None:
    similarity.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="YAML file that names other scans; without it, those of the pre-training",
    )
    similarity.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN",
        help="run folder or checkpoint of pretrain.py",
    )
    similarity.add_argument("--split", default="val", choices=("train", "val", "test"))
    similarity.add_argument(
        "--scan", default="0", metavar="N", help="number of a scan in the split, or its token (0)"
    )
    similarity.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; PNGs lie beside it (RUN/similarity.html)",
    )
    similarity.add_argument(
        "--points", type=int, default=40_000, metavar="N", help="at most N points (40000)"
    )
    similarity.add_argument(
        "--error", type=float, default=0.02, metavar="E", help="of a similarity, at most (0.02)"
    )
    similarity.add_argument(
        "--point",
        type=int,
        metavar="N",
        help="the point that is asked for at first, and in the PNGs",
    )


def _similarity(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from core.config import load_config
    from core.engine.run.distributed import World
    from core.engine.run.trained import read_network
    from core.engine.score.similarity import show_similarity

    _check_positive(args, "points", "error")
    if args.config is None:
        config = read_network(args.checkpoint, "--checkpoint").config
        config.override(overrides)
    else:
        config = load_config(args.config, overrides)
    folder = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    out = args.out or folder / "similarity.html"
    bound = show_similarity(
        World(),
        config,
        args.checkpoint,
        out,
        split=args.split,
        scan=args.scan,
        most_points=args.points,
        error=args.error,
        point=args.point,
    )
    sys.stdout.write(f"similarities to within {bound:.4f}; open {out}\n")


def _moving(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from core.config import Config
    from core.engine.score.moving_view import PAGE, Chosen, show_moving

    _check_positive(args, "count", "every", "extent", "rate")
    if args.first < 0:
        raise UserError("a number of scans is not negative", where=f"--first {args.first}")
    section = {
        "name": "semantickitti",
        "root": str(args.root),
        "labels": args.labels,
        "cameras": [],
        "partial": True,
    }
    config = Config({"dataset": section}, source="command line")
    out = args.out or args.predictions / "moving"
    chosen = Chosen(args.sequence, args.first, args.count, args.every)
    film = None if args.film == "none" else args.film
    score = show_moving(
        args.predictions,
        config,
        args.split,
        out,
        chosen,
        extent=args.extent,
        film=film,
        rate=args.rate,
    )
    shown = "none" if score.iou != score.iou else f"{100 * score.iou:.2f}"
    sys.stdout.write(f"moving IoU {shown} of what is shown; open {out / PAGE}\n")


def _check_positive(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(args, name)
        if not 0 < value < float("inf"):
            raise UserError(f"expected a positive number, got {value}", where=f"--{name}")


_JOBS = {"moving": _moving, "motion": _motion, "similarity": _similarity}


if __name__ == "__main__":
    run_command(main)
