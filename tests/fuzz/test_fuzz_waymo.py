"""Waymo's files keep checksums, so damage is refused, never read as something else."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import fuzz_waymo
import fuzz_waymo_tables
import pytest
from fuzz_runner import NOTHING, OTHER_DATA, USER, Target, run_target

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))


def assert_refused(target: Target, count: int) -> None:
    tally = run_target(target, count, seed=11)
    assert not tally.findings, tally.findings
    assert tally.counts[OTHER_DATA] == 0
    assert tally.counts[USER] + tally.counts[NOTHING] == count
    assert tally.counts[NOTHING] <= count / 10, "most damage has to be noticed"


def test_a_damaged_segment_is_refused() -> None:
    (target,) = (target for target in fuzz_waymo.TARGETS if target.name == "waymo.records")
    assert_refused(target, 40)


def test_damaged_tables_are_refused() -> None:
    (target,) = (target for target in fuzz_waymo_tables.TARGETS if target.name == "waymo.tables")
    tally = run_target(target, 40, seed=11)
    assert not tally.findings, tally.findings
    assert tally.counts[OTHER_DATA] == 0
    assert tally.counts[USER] >= 20  # footers hold much that nobody reads


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "waymo").is_dir(), reason="no real frame; set LIDISTILL_REALDATA")
def test_a_damaged_real_frame_is_refused() -> None:
    make, use = partial(fuzz_waymo.real_records, REAL.resolve()), fuzz_waymo.use_real_records
    assert_refused(Target("waymo.real", "x", make, "*.tfrecord", use), 500)
