"""What ``evaluate.py`` can be asked for: score, predict, stream, submit, robustness, each with its options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from core.engine.run import cli
from core.names import CORRUPTION_PROFILES, FORMATS

__all__ = ["COMMANDS", "evaluation_parser"]

COMMANDS = {
    "score": "score a checkpoint on every raw point of a split",
    "predict": "label scans: a folder of one's own, or a split of the data set",
    "stream": "label scans one by one as a scanner gives them, and measure how long it takes",
    "submit": "write and check a submission to the benchmark",
    "robustness": "score clean and corrupted scans",
}


def evaluation_parser(description: str) -> argparse.ArgumentParser:
    """Parser of ``{score,predict,stream,submit,robustness} [CONFIG] …``."""
    parser = argparse.ArgumentParser(
        description=description.strip(),
        epilog=cli.OVERRIDES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="JOB")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=purpose,
            description=purpose,
            epilog=cli.OVERRIDES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        cli.add_config_options(command, optional=True)
        command.add_argument(
            "--checkpoint",
            type=Path,
            required=True,
            help="checkpoint, run folder (its best one), or exported .safetensors",
        )
        _OPTIONS[name](command)
        if name != "stream":
            _add_vote_options(command)
    return parser


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=("train", "val"), default="val", help="what is scored")
    parser.add_argument("--json", type=Path, help="where to write the scores (default: run folder)")
    parser.add_argument("--report", action="store_true", help="write report.html too")
    parser.add_argument(
        "--compare",
        "--beside",
        type=_named_file,
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="another network's scores for the report, e.g. teacher=runs/…/evaluation-val.json; may be repeated",
    )
    cli.add_profile_option(parser)


def _add_predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SCANS",
        help="a scan or a folder of scans: .bin, .npy, .npz, .pcd, .las or .laz; or split:train|val|test",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the predictions, default RUN/predictions/NAME; one that was begun is completed",
    )
    _add_form_options(parser)
    parser.add_argument(
        "--preview", action="store_true", help="draw the first scan from above, DIR/preview.png"
    )


def _add_form_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: as the label space")
    parser.add_argument(
        "--point-fields",
        type=int,
        metavar="N",
        help="values per point in .bin and plain .npy files",
    )


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SCANS",
        help="a folder of scans, a drive's folder with velodyne/, or split:train|val|test",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the predictions, default RUN/stream/NAME; scans that are there are predicted again",
    )
    _add_form_options(parser)
    parser.add_argument(
        "--poses",
        type=Path,
        metavar="FILE",
        help="12 numbers per line, a line per scan (default: poses.txt with the scans or above them)",
    )
    parser.add_argument(
        "--delay",
        type=_count,
        default=0,
        metavar="N",
        help="scans that a prediction may wait for, because motion features look at them (default 0)",
    )
    parser.add_argument(
        "--period",
        type=_seconds,
        default=100.0,
        metavar="MS",
        help="milliseconds between two scans (default 100: 10 Hz)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="the folder grows; SIGTERM, SIGUSR1 or Ctrl-C end the stream, and what was predicted stays",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="with --follow: seconds without a new scan that end the stream too",
    )
    parser.add_argument(
        "--json", type=Path, help="where to write the times (default: DIR/latency.json)"
    )


def _add_submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the submission; one that was begun is completed",
    )
    parser.add_argument(
        "--frames-per-file",
        type=_positive,
        metavar="N",
        help="Waymo: several files of so many scans each (default: one file)",
    )


def _add_robustness_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=("train", "val"), default="val", help="what is scored")
    parser.add_argument("--json", type=Path, help="where to write the scores (default: run folder)")
    parser.add_argument(
        "--benchmark",
        required=True,
        choices=CORRUPTION_PROFILES,
        help="which corruptions, how severe",
    )
    parser.add_argument(
        "--kinds", nargs="+", metavar="NAME", help="corruptions: types (fog) or single (fog_heavy)"
    )
    parser.add_argument(
        "--published",
        "--robustness-root",
        type=Path,
        metavar="DIR",
        help="folder of published corrupted scans (default: they are made)",
    )
    parser.add_argument(
        "--keep-labels", action="store_true", help="points of local distortion keep their class"
    )


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "score": _add_score_options,
    "predict": _add_predict_options,
    "stream": _add_stream_options,
    "submit": _add_submit_options,
    "robustness": _add_robustness_options,
}


def _add_vote_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("votes (test-time augmentation)")
    group.add_argument(
        "--votes",
        type=int,
        default=1,
        metavar="N",
        help="passes over each scan that decide together",
    )
    group.add_argument(
        "--vote-mode",
        default="fixed",
        choices=("fixed", "mirrors", "points", "legacy_random", "legacy_cumulative"),
        help="fixed: N equal steps about z; mirrors: as recorded and mirrored in x, y and both, at N / 4 angles; "
        "points: as recorded, pass k shows of each voxel its k-th point; "
        "legacy_random: changes drawn as in 2DPASS (eval.vote_augment); legacy_cumulative: the four views of PVKD's "
        "published code, each begun from the one before",
    )
    group.add_argument(
        "--vote-flips", action="store_true", help="fixed: every second pass is mirrored"
    )
    group.add_argument(
        "--vote-sum",
        choices=("softmax", "logits"),
        help="what is added up; default softmax, as published logits in legacy_cumulative",
    )
    group.add_argument(
        "--vote-chunk", type=int, metavar="M", help="passes at a time (GPU: 4, processor: 1)"
    )


def _named_file(text: str) -> tuple[str, Path]:
    """``NAME=FILE`` of an option."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, got '{text}'")
    return name, Path(path)


def _positive(text: str) -> int:
    """A number of things, one at least."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got '{text}'")
    return int(text)


def _count(text: str) -> int:
    """A number of things, perhaps none."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    """A positive time."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got '{text}'")
    return value
