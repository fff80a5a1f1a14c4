"""What every command shares: arguments, the run directory, errors of one paragraph, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from core.config import Config, load_config
from core.errors import EXIT_USER_ERROR, UserError

__all__ = [
    "OVERRIDES",
    "add_config_options",
    "add_profile_option",
    "config_parser",
    "read_arguments",
    "run_command",
    "run_distributed",
]

OVERRIDES = (
    "Any key of the configuration can be overridden: --model.cr 0.5, or model.cr=0.5.\n"
    "'python -m core.config' lists the keys with their units and defaults."
)


def config_parser(description: str) -> argparse.ArgumentParser:
    """Parser of ``CONFIG [--run-dir DIR] [--debug] [--section.key VALUE ...]``."""
    parser = argparse.ArgumentParser(
        description=description.strip(),
        epilog=OVERRIDES,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # examples keep their lines
        allow_abbrev=False,
    )
    add_config_options(parser)
    return parser


def add_config_options(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """``CONFIG [--run-dir DIR] [--debug]``.

    Args:
        optional: the job also runs without CONFIG, which is None then.
    """
    what = "YAML file, e.g. configs/synthetic/minkunet_demo.yaml"
    if optional:
        what += "; without it, what the checkpoint was trained with"
    count = "?" if optional else None
    parser.add_argument("config", metavar="CONFIG", nargs=count, help=what)
    parser.add_argument(
        "--run-dir", type=Path, help="folder of this run (default: runs/<dataset>/<config name>)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_profile_option(parser: argparse.ArgumentParser) -> None:
    """``--profile STEPS``: measure where the time of a step goes, in place of the job itself."""
    parser.add_argument(
        "--profile",
        type=int,
        metavar="STEPS",
        help="measure STEPS steps, write RUN_DIR/profile/{table.txt,trace.json}, and stop; nothing else is saved",
    )


def read_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Config]:
    """Parse the command line; what the parser does not know are configuration overrides."""
    args, overrides = parser.parse_known_args(argv)
    return args, load_config(args.config, overrides)


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and leave the process: 0, or one paragraph on stderr and the error's exit code."""
    try:
        main()
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"\nerror: {error}\n")
        raise SystemExit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        sys.stderr.write(
            "\ninterrupted; what was saved stays, start the same command again to go on\n"
        )
        raise SystemExit(130) from None


def run_distributed(job: Callable[..., object], *args: object) -> None:
    """Run ``job(world, *args)`` on every process; an error of any rank is shown by rank 0, and all of them leave."""
    import torch.distributed as dist

    from core.engine.run.distributed import ErrorRelay, start

    world = start()
    relay = ErrorRelay(world, _show_and_leave)
    try:
        job(world, *args)
    except Exception as error:
        relay.close()
        if not isinstance(error, UserError):
            relay.send(traceback.format_exc(), 1)
            raise
        if world.size == 1 or "--debug" in sys.argv:
            raise
        if not relay.send(str(error), EXIT_USER_ERROR):
            sys.stderr.write(f"\nerror: {error}\n")
        _leave(EXIT_USER_ERROR)
    relay.close()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _show_and_leave(text: str, code: int) -> None:
    sys.stderr.write(f"\nerror: {text}\n")
    _leave(code)


def _leave(code: int) -> None:
    """Leave at once: other ranks may sit in a collective that will never finish."""
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)
