"""What every command shares: arguments, the run directory, errors of one paragraph, exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from core.config import Config, load_config
from core.engine.run.stopping import STOP, Stopped
from core.errors import EXIT_USER_ERROR, UserError
from core.io import cannot_write

__all__ = [
    "OVERRIDES",
    "add_config_options",
    "add_profile_option",
    "config_parser",
    "read_arguments",
    "run_command",
    "run_distributed",
]

_INTERRUPTED = "interrupted; what was saved stays, start the same command again to go on"
_EXIT_CTRL_C = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
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
    STOP.install()
    _print_any_name()
    try:
        main()
        sys.stdout.flush()
    except (UserError, OSError) as error:
        told = _for_a_person(error)
        if told is None or "--debug" in sys.argv:
            raise
        sys.stderr.write(f"\nerror: {told}\n")
        raise SystemExit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{_INTERRUPTED}\n")
        raise SystemExit(_EXIT_CTRL_C) from None


def _for_a_person(error: Exception) -> UserError | None:
    """What a person can mend; None = a defect. A full disk is met by streams, too, that nothing else watches."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return cannot_write(Path(error.filename or "standard output"), error)
    return None


def _print_any_name() -> None:
    """Let what a terminal's encoding lacks, such as the name of a file, be printed with a backslash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_distributed(job: Callable[..., object], *args: object) -> None:
    """Run ``job(world, *args)`` on every process; an error of any rank is shown by rank 0, and all of them leave."""
    import torch.distributed as dist

    from core.engine.run.distributed import barrier, start
    from core.engine.run.relay import Relay

    world, store = start()
    if store is None:
        STOP.doing = "at work"
        job(world, *args)
        STOP.settle()
        return
    relay = Relay(world, store)
    STOP.leave = relay.stop
    STOP.doing = "at work"
    try:
        job(world, *args)
        STOP.settle()
        barrier()
    except Stopped as stopped:
        relay.end("", int(stopped.code or 0))
    except KeyboardInterrupt:
        relay.end(f"\n{_INTERRUPTED}\n", _EXIT_CTRL_C)
    except Exception as error:  # noqa: BLE001  (rank 0 shows it, whatever it is)
        told = _for_a_person(error)
        if told is None:
            relay.fail(traceback.format_exc())
        text = traceback.format_exc() if "--debug" in sys.argv else f"error: {told}"
        relay.end(f"\n{text}\n", EXIT_USER_ERROR)
    relay.close()
    dist.destroy_process_group()
