"""Scores summed over the views of a scan."""

from __future__ import annotations

import torch

from core.engine.score.tally import Sums, Visits


def test_visits_count_where_they_showed_a_point() -> None:
    """By hand: point 0 shown twice, point 1 once, point 2 never."""
    tally = Visits()
    shown = ([1, 0, 0], [0, 1, 0], [1, 0, 0])
    scores = ([[1.0], [10.0], [5.0]], [[2.0], [20.0], [6.0]], [[4.0], [40.0], [10.0]])
    for view, mask in zip(scores, shown):
        tally.add(torch.tensor(view), torch.tensor(mask).bool())
    mean = tally.total() / tally.seen
    torch.testing.assert_close(mean, torch.tensor([[2.5], [20.0], [7.0]]))


def test_sums_count_every_view() -> None:
    tally = Sums()
    for value in (1.0, 2.0):
        tally.add(torch.full((2, 1), value), torch.tensor([True, False]))
    assert tally.seen == 2 and tally.total().tolist() == [[3.0], [3.0]]
