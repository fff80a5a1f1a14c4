"""``benchmarks/same_numbers.py``: a mended fault explains differences from checkouts that have it, and no others."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def same_numbers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import same_numbers

        yield same_numbers


def test_this_checkout_has_no_mended_fault(same_numbers) -> None:
    """Compared with it, nothing is expected: a difference is always told."""
    for mended in same_numbers.EXPECTED:
        text = (same_numbers.TREE / mended.file).read_text()
        assert mended.text in text, f"{mended.file} moved; name where '{mended.reason}' shows now"
        for pattern in mended.jobs:
            assert any(fnmatch(job, pattern) for job in same_numbers.JOBS), pattern
    for job in same_numbers.JOBS:
        assert same_numbers.reason(job, "checkpoints/last.pt", same_numbers.TREE) is None


def test_a_checkout_with_the_fault_is_expected_to_differ(same_numbers, tmp_path: Path) -> None:
    assert "no bias" in same_numbers.reason("u2mkd-minkunet", "checkpoints/last.pt", tmp_path)
    assert same_numbers.reason("minkunet", "checkpoints/last.pt", tmp_path) is None
    file = tmp_path / "core" / "models" / "fusion" / "c2l.py"
    file.parent.mkdir(parents=True)
    file.write_text("nn.Linear(4, 2)")
    assert "no bias" in same_numbers.reason("u2mkd-minkunet", "checkpoints/last.pt", tmp_path)
    file.write_text("nn.Linear(4, 2, bias=False)")
    assert same_numbers.reason("u2mkd-minkunet", "checkpoints/last.pt", tmp_path) is None
