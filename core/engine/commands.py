"""From the command line of ``evaluate.py`` to the job that it asks for; its options are in ``evaluation_options``.

CONFIG may be left out: a checkpoint knows its own. The form of earlier versions, ``evaluate.py CONFIG --predict IN …``,
is translated before anything is parsed. An option that belongs to another job is an error: nothing that was asked for
is left out in silence.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import Config, load_config
from core.engine.evaluation_options import COMMANDS
from core.engine.run import cli

if TYPE_CHECKING:
    from core.engine.score.voting import Votes

__all__ = ["job_of", "read_evaluation", "read_votes", "run_folder"]

_FLAGS = (
    "-h",
    "--help",
    "--debug",
    "--report",
    "--preview",
    "--keep-labels",
    "--vote-flips",
    "--follow",
)
_LISTS = ("--kinds",)  # take all words up to the next option
_NUMBER = re.compile(r"-\.?\d")
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")  # section.key=VALUE
_LEGACY = {
    "--predict": "predict",
    "--stream": "stream",
    "--submit": "submit",
    "--robustness": "robustness",
}


def read_evaluation(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, Config]:
    """Parse the command line; what no job knows are configuration overrides."""
    given, overrides = _without_overrides(parser, _translated(parser, list(argv)))
    args = parser.parse_args(given)
    cli.answer_habits(overrides)
    elsewhere = _options_elsewhere(parser, args.command)
    for word in overrides:
        option = word.partition("=")[0]
        if option in elsewhere:
            parser.error(f"{option} goes with {' or '.join(elsewhere[option])}, not {args.command}")
    if args.command == "stream" and args.timeout is not None and not args.follow:
        parser.error("--timeout needs --follow")
    if args.command != "stream":
        _check_votes(parser, args)
    if args.command == "score" and args.votes > 1 and args.profile is not None:
        parser.error("--votes does not go with --profile")
    if args.command == "score" and args.profile is not None and (args.report or args.json):
        parser.error("--profile measures alone: neither --report nor --json go with it")
    return args, _configuration(args, overrides)


def _configuration(args: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """CONFIG, or in its place what the checkpoint was trained with; then the command line."""
    if args.config is not None:
        return load_config(args.config, overrides)
    from core.engine.run.trained import read_network

    config = read_network(args.checkpoint, "--checkpoint").config
    config.override(overrides)
    return config


def run_folder(args: argparse.Namespace, config: Config) -> Path:
    """The folder of outputs: ``--run-dir``, or that of the configuration's run, or of the checkpoint's."""
    from core.engine.run.run_dir import default_run_dir

    if args.run_dir is not None:
        return Path(args.run_dir)
    if args.config is not None:
        return default_run_dir(config, args.config)
    path: Path = args.checkpoint
    if path.is_dir():
        return path
    if path.parent.name == "checkpoints":
        return path.parent.parent
    return default_run_dir(config, str(path))


def _check_votes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """One pass has nothing to vote on: options of votes are an error then."""
    if args.votes != 1:
        return
    given = {
        "--vote-mode": args.vote_mode != "fixed",
        "--vote-flips": args.vote_flips,
        "--vote-sum": args.vote_sum == "logits",
        "--vote-chunk": args.vote_chunk is not None,
    }
    for option, is_given in given.items():
        if is_given:
            parser.error(f"{option} needs --votes N with N > 1")


def _translated(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """The command line in today's form, its positional words first: ``JOB [CONFIG] [SCANS] OPTIONS``."""
    words = _positionals(argv)
    rest = [word for place, word in enumerate(argv) if place not in words]
    named = [argv[place] for place in words]
    if named and named[0] in COMMANDS:
        return [*named, *rest]
    given = [word.partition("=")[0] for word in rest]
    if not named and "--checkpoint" not in given:
        return argv  # help, or an error about what is missing
    asked = [option for option in _LEGACY if option in given]
    if len(asked) > 1:
        parser.error(f"{' and '.join(asked)} are two jobs; start one after the other")
    if not asked:
        return ["score", *named, *rest]
    place = given.index(asked[0])
    option, equals, value = rest[place].partition("=")
    after = rest[place + 1 :]
    if not equals:
        if not after:
            parser.error(f"{option} needs a value")
        value, after = after[0], after[1:]
    rest = rest[:place] + after
    if option in ("--predict", "--stream"):
        return [_LEGACY[option], *named, value, *rest]
    spelled = "--out" if option == "--submit" else "--benchmark"
    return [_LEGACY[option], *named, *rest, spelled, value]


def _positionals(argv: Sequence[str]) -> list[int]:
    """Places of the words that are neither an option, an option's value nor an override."""
    places = []
    for place, (word, option) in enumerate(_with_options(argv)):
        if option is None and not _is_override(word):
            places.append(place)
    return places


def _with_options(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each word with the option that it is or belongs to; None = to none."""
    found: list[tuple[str, str | None]] = []
    option, left = None, 0  # left: how many words after the option may be its own
    for word in argv:
        if word.startswith("-") and not _NUMBER.match(word):
            option, equals, _ = word.partition("=")
            left = 0 if equals or option in _FLAGS else 1
            if option in _LISTS:
                left = len(argv)
        elif left:
            left -= 1
        else:
            option = None
        found.append((word, option))
    return found


def _is_override(word: str) -> bool:
    return _OVERRIDE.match(word) is not None and not Path(word).is_file()


def _without_overrides(
    parser: argparse.ArgumentParser, argv: list[str]
) -> tuple[list[str], list[str]]:
    """What a job's parser knows, and the configuration overrides: argparse would take their values for CONFIG."""
    if not argv or argv[0] not in COMMANDS:
        return argv, []
    known = _subparsers(parser)[argv[0]]._option_string_actions
    kept, overrides = [], []
    for word, option in _with_options(argv):
        foreign = option is not None and option.startswith("--") and option not in known
        if foreign or (option is None and _is_override(word)):
            overrides.append(word)
        else:
            kept.append(word)
    return kept, overrides


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


def _options_elsewhere(parser: argparse.ArgumentParser, command: str) -> dict[str, list[str]]:
    """Options of the other jobs that this one lacks, with the jobs that have them."""
    found: dict[str, list[str]] = {}
    commands = _subparsers(parser)
    known = set(commands[command]._option_string_actions)
    for name, other in commands.items():
        for option in other._option_string_actions:
            if option not in known:
                found.setdefault(option, []).append(name)
    for option, name in _LEGACY.items():
        found.setdefault(option, []).append(name)
    return found


def read_votes(args: argparse.Namespace) -> Votes:
    """Read what the vote options ask for.

    Raises:
        UserError: no such number of passes, or options that do not go together.
    """
    from core.engine.score.voting import Votes

    added_up = args.vote_sum
    if added_up is None:
        added_up = "logits" if args.vote_mode == "legacy_cumulative" else "softmax"
    return Votes(args.votes, args.vote_mode, added_up, args.vote_chunk, args.vote_flips)


def _stream_of(args: argparse.Namespace, run_path: Path) -> tuple[Callable[..., Any], list[Any]]:
    """The job of a stream and its targets."""
    from core.engine.score.source import default_out
    from core.engine.score.stream import stream_checkpoint
    from core.engine.score.stream_source import StreamOptions

    options = StreamOptions(
        delay=args.delay,
        period=args.period / 1e3,
        poses=args.poses,
        follow=args.follow,
        timeout=args.timeout,
        format=args.format,
        point_fields=args.point_fields,
        json_path=args.json,
    )
    out = args.out or default_out(run_path, args.source, "stream")
    return stream_checkpoint, [args.source, out, options]


def job_of(args: argparse.Namespace, run_path: Path) -> tuple[Callable[..., Any], list[Any]]:
    """Choose the job ``(world, config, checkpoint, *targets)`` and its targets."""
    job: Callable[..., Any]
    if args.command == "stream":
        return _stream_of(args, run_path)
    votes = read_votes(args)
    if args.command == "submit":
        from core.engine.score.submission import submit_checkpoint

        job = partial(
            submit_checkpoint, split=args.split, votes=votes, per_file=args.frames_per_file
        )
        return job, [args.out]
    if args.command == "predict":
        from core.engine.score.prediction import predict_checkpoint
        from core.engine.score.source import default_out

        job = partial(
            predict_checkpoint,
            format=args.format,
            point_fields=args.point_fields,
            preview=args.preview,
            votes=votes,
        )
        return job, [args.source, args.out or default_out(run_path, args.source)]
    if args.command == "robustness":
        from core.engine.score.robustness import evaluate_robustness

        job = partial(
            evaluate_robustness,
            profile=args.benchmark,
            kinds=args.kinds,
            root=args.published,
            keep_labels=args.keep_labels,
            split=args.split,
            json_path=args.json,
            votes=votes,
        )
        return job, [run_path]
    if args.profile is not None:
        from core.engine.train.profiling import profile_evaluation

        return partial(profile_evaluation, split=args.split, steps=args.profile), [run_path]
    from core.engine.score.jobs import evaluate_checkpoint

    job = partial(
        evaluate_checkpoint,
        split=args.split,
        json_path=args.json,
        report=args.report,
        compared=dict(args.compare),
        votes=votes,
    )
    return job, [run_path]
