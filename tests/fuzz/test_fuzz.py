"""A few inputs of each target of ``python tests/fuzz``, and that the command tells a fault when there is one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fuzz_data
import pytest
from fuzz_runner import CRASH, EXCEPTION, NOTHING, OTHER_DATA, USER, Target, run_target, table
from fuzz_targets import TARGETS

from core.decode import read_json
from core.errors import UserError

SLOW = ("run.config", "run.finished", "values")  # train; the command has them
COUNT = 4  # inputs per target; the command makes 160
QUICK = [target for target in TARGETS if target.name not in SLOW]


@pytest.fixture(autouse=True)
def existing_world(tiny_nuscenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_data, "nuscenes_world", [tiny_nuscenes])


@pytest.mark.parametrize("target", QUICK, ids=lambda target: target.name)
def test_damaged_files_end_in_a_user_error_or_right(target: Target) -> None:
    tally = run_target(target, COUNT, seed=7)
    assert not tally.findings, tally.findings
    assert tally.counts.total() == COUNT


# --- the command itself -----------------------------------------------------------------------------------------------
def one_file(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": 1}')


def outcomes_of(use: object, count: int = 4) -> dict[str, int]:
    target = Target("x", "x", one_file, "*.json", use, [lambda content, rng: b"[2]"])  # type: ignore[arg-type]
    return dict(run_target(target, count, seconds=0.5).counts)


def test_what_is_refused_accepted_or_without_effect_is_told_apart() -> None:
    assert outcomes_of(lambda root: read_json(root / "a.json")) == {OTHER_DATA: 4}
    assert outcomes_of(lambda root: read_json(root / "a.json", dict[str, int])) == {USER: 4}
    assert outcomes_of(lambda root: (root / "a.json").is_file()) == {NOTHING: 4}


def test_exceptions_crashes_and_hangs_are_findings() -> None:
    def wrong(root: Path) -> object:
        return read_json(root / "a.json")["a"]

    def crash(root: Path) -> object:
        if read_json(root / "a.json") == [2]:
            os._exit(11)
        return 0

    def hang(root: Path) -> object:
        if read_json(root / "a.json") == [2]:
            time.sleep(60)
        return 0

    def work(root: Path) -> object:
        while read_json(root / "a.json") == [2]:
            pass
        return 0

    assert outcomes_of(wrong) == {EXCEPTION: 4}
    assert outcomes_of(crash, 2) == {CRASH: 2}
    assert outcomes_of(hang, 1) == {CRASH: 1}
    assert outcomes_of(work, 1) == {CRASH: 1}


def test_an_input_is_the_same_again_by_its_number() -> None:
    def wrong(root: Path) -> object:
        content = (root / "image.png").read_bytes()
        if len(content) % 2:
            raise KeyError(len(content))
        return 0

    def refused(root: Path) -> object:
        raise UserError("not this one")

    target = Target("y", "y", fuzz_data.images, "image.png", wrong)
    with pytest.raises(RuntimeError, match="not this one"):
        run_target(Target("z", "z", one_file, "*.json", refused), 1)
    found = run_target(target, 12).findings
    if found:  # the right file itself has an even length
        again = run_target(target, 1, first=found[0].number).findings
        assert again == found[:1]
    assert "| y | 12 |" in table({"y": run_target(target, 12)})
