"""``evaluate.py``: its jobs, the older form of the command line, and options that do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.corruptions import PROFILES
from core.engine.commands import read_evaluation
from core.engine.evaluation_options import evaluation_parser
from core.engine.run.cli import answer_habits, config_parser, read_arguments
from core.errors import UserError
from core.names import CORRUPTION_PROFILES

CONFIG = "configs/synthetic/minkunet_demo.yaml"


def read(*argv: str):
    return read_evaluation(evaluation_parser("about"), argv)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((CONFIG, "--checkpoint", "c"), ("score", CONFIG, "--checkpoint", "c")),
        (
            (CONFIG, "--checkpoint", "c", "--beside", "teacher=a.json", "--report"),
            ("score", CONFIG, "--checkpoint", "c", "--compare", "teacher=a.json", "--report"),
        ),
        (
            (
                "--checkpoint",
                "c",
                "--preview",
                CONFIG,
                "--predict",
                "in",
                "--out",
                "o",
                "--votes=3",
            ),
            (
                "predict",
                CONFIG,
                "in",
                "--checkpoint",
                "c",
                "--out",
                "o",
                "--votes",
                "3",
                "--preview",
            ),
        ),
        (
            (CONFIG, "--predict=split:val", "--checkpoint", "c", "--out", "o", "--model.cr", "0.5"),
            (
                "predict",
                CONFIG,
                "split:val",
                "--checkpoint",
                "c",
                "--out",
                "o",
                "--model.cr",
                "0.5",
            ),
        ),
        (
            (CONFIG, "--stream", "in", "--checkpoint", "c", "--follow", "--timeout", "5"),
            ("stream", CONFIG, "in", "--checkpoint", "c", "--follow", "--timeout", "5"),
        ),
        (
            (CONFIG, "--submit", "o", "--split", "val", "--checkpoint", "c"),
            ("submit", CONFIG, "--out", "o", "--split", "val", "--checkpoint", "c"),
        ),
        (
            (CONFIG, "--checkpoint", "c", "--robustness", "robo3d", "--robustness-root", "r"),
            (
                "robustness",
                CONFIG,
                "--checkpoint",
                "c",
                "--benchmark",
                "robo3d",
                "--published",
                "r",
            ),
        ),
    ],
)
def test_the_older_form_means_the_same(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    (args, config), (expected, wanted) = read(*old), read(*new)
    assert vars(args) == vars(expected) and config.tree == wanted.tree
    assert args.config == CONFIG and args.checkpoint == Path("c")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((CONFIG, "--predict", "a", "--submit", "b"), "two jobs"),
        ((CONFIG, "--robustness", "robo3d", "--submit", "b"), "two jobs"),
        (
            (CONFIG, "--predict", "a", "--out", "o", "--json", "s"),
            "--json goes with score or stream or robustness",
        ),
        ((CONFIG, "--robustness", "robo3d", "--report"), "--report goes with score"),
        ((CONFIG, "--submit", "o", "--keep-labels"), "--keep-labels goes with robustness"),
        ((CONFIG, "--split", "test"), "invalid choice"),
        ((CONFIG, "--profile", "2", "--votes", "3"), "--votes does not go with --profile"),
        ((CONFIG, "--profile", "2", "--json", "s"), "neither --report nor --json"),
        (("score", CONFIG, "--vote-flips"), "--vote-flips needs --votes N"),
        (("score", CONFIG, "--vote-chunk", "2"), "--vote-chunk needs --votes N"),
        (("score", CONFIG, "--vote-sum", "logits"), "--vote-sum needs --votes N"),
        (("score", CONFIG, "--vote-mode", "legacy_random"), "--vote-mode needs --votes N"),
        (("score", CONFIG, "--predict", "a"), "--predict goes with predict"),
        (("submit", CONFIG, "--out", "o", "--frames-per-file", "0"), "expected a number from 1"),
        ((CONFIG, "--frames-per-file", "5"), "--frames-per-file goes with submit"),
        ((CONFIG, "--stream", "a", "--predict", "b"), "two jobs"),
        (("stream", CONFIG, "in", "--votes", "4"), "--votes goes with score or predict or"),
        (("predict", CONFIG, "in", "--delay", "4"), "--delay goes with stream"),
        (("stream", CONFIG, "in", "--timeout", "4"), "--timeout needs --follow"),
        (("stream", CONFIG, "in", "--period", "0"), "expected a positive number"),
        (("stream", CONFIG, "in", "--delay", "-1"), "expected a number from 0"),
    ],
)
def test_nothing_asked_for_is_left_out_in_silence(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read(*argv, "--checkpoint", "c")
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_offered_profiles_are_those_there_are() -> None:
    assert tuple(PROFILES) == CORRUPTION_PROFILES


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--resume", "no flag is needed: the same command"),
        ("--device=cuda", "CUDA_VISIBLE_DEVICES"),
        ("--train.device", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_options_of_other_tools_are_answered(option: str, words: str) -> None:
    parser = config_parser("")
    with pytest.raises(UserError, match=words):
        read_arguments(parser, ["none.yaml", option, "cuda"])


def test_an_option_s_value_is_no_habit() -> None:
    answer_habits(["--train.title", "resume", "model.cr=0.5"])
