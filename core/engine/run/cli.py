"""What every command shares: arguments, the run directory, errors of one paragraph, exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from core.config import Config, load_config
from core.engine.run.stopping import STOP, Stopped
from core.errors import EXIT_USER_ERROR, UserError
from core.io import cannot_write

__all__ = [
    "OVERRIDES",
    "add_config_options",
    "add_profile_option",
    "answer_habits",
    "config_parser",
    "preparing_parser",
    "read_arguments",
    "run_command",
    "run_distributed",
    "with_config",
]

_GOES_ON = (
    "no flag is needed: the same command in the same --run-dir goes on where it stopped",
    "Leave it out; for other settings from these weights, --train.init_from RUN in another --run-dir",
)
_DEVICE = (
    "there is no such key: a GPU is used when torch sees one, and CUDA_VISIBLE_DEVICES chooses",
    "Leave it out; `make doctor` says what torch sees here",
)
# what people are used to from other tools, and what is the case here
_HABITS = {
    **dict.fromkeys(("resume", "auto-resume", "resume-from", "resume_from"), _GOES_ON),
    **dict.fromkeys(("device", "gpu", "gpus", "gpu-ids", "cuda"), _DEVICE),
}
_INTERRUPTED = "interrupted; what was saved stays, start the same command again to go on"
_EXIT_CTRL_C = 130
# Paths that a person gave, in whichever key or option: asking whether such a file exists raises.
_NO_PATH = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)
_SHOWN = 120  # characters of such a path
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_PLACEHOLDER = re.compile(r"(?<= )CONFIG\b")
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


def preparing_parser(description: str) -> argparse.ArgumentParser:
    """Parser of a command that prepares data: ``CONFIG [--workers N] [--debug] [--section.key VALUE ...]``."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Any key of the configuration can be overridden: --dataset.root FOLDER.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML file of a job, or configs/<dataset>/default.yaml")
    parser.add_argument("--workers", type=int, help="processes (one per processor)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
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
    answer_habits(overrides)
    return args, load_config(args.config, overrides)


def answer_habits(options: Sequence[str]) -> None:
    """Answer options that other tools have and this one does not need.

    Raises:
        UserError: one of ``options``, which are no options of the command, is such a one.
    """
    for option in options:
        name = option.removeprefix("--").partition("=")[0].rpartition(".")[2]
        if option.startswith("--") and name in _HABITS:
            what, cure = _HABITS[name]
            raise UserError(what, where=f"command line, {option}", cure=cure)


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and leave the process: 0, or one paragraph on stderr and the error's exit code."""
    _insist_on_utf8()
    STOP.install()
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
    finally:
        STOP.settle()


def _for_a_person(error: Exception) -> str | None:
    """What a person can mend; None = a defect. A full disk is met by streams, too, that nothing else watches."""
    if isinstance(error, UserError):
        return with_config(str(error), sys.argv[1:])
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return str(cannot_write(Path(error.filename or "standard output"), error))
    if isinstance(error, OSError) and error.errno in _NO_PATH and error.filename:
        shown = str(error.filename)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        cure = "Give another path, or the right to read it"
        return str(
            UserError(f"this path cannot be used ({error.strerror})", where=shown, cure=cure)
        )
    return None


def _insist_on_utf8() -> None:
    """Start anew in UTF-8 mode where the locale is another: names of files could be neither kept nor printed."""
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)


def run_distributed(job: Callable[..., object], *args: object) -> None:
    """Run ``job(world, *args)`` on every process; an error of any rank is shown by rank 0, and all of them leave."""
    import torch.distributed as dist

    from core.engine.run.distributed import barrier, start
    from core.engine.run.relay import Relay

    world, store = start()
    if store is None:
        STOP.doing = "at work"
        job(world, *args)
        return
    relay = Relay(world, store)
    STOP.doing = "at work"
    STOP.met(relay.stop)
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


def with_config(text: str, argv: Sequence[str]) -> str:
    """An error whose commands can be copied: this command's configuration stands in place of ``CONFIG``.

    What the command line says of ``dataset`` and ``data`` goes along.
    """
    config = next((word for word in argv if word.endswith((".yaml", ".yml"))), None)
    if config is None:
        return text
    words = [config]
    for word, value in pairwise([*argv, ""]):
        if word.startswith(("--dataset.", "--data.")):
            words.append(word)
            if "=" not in word:
                words.append(value)
        elif word.startswith(("dataset.", "data.")) and "=" in word:
            words.append(word)
    return _PLACEHOLDER.sub(lambda _: shlex.join(words), text)
