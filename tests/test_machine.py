"""The cores a process may use follow its affinity mask."""

from __future__ import annotations

import os

import pytest

from core.machine import usable_cores


@pytest.fixture
def three_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


def test_cores_of_the_affinity_mask(three_cores):
    assert usable_cores() == 3
    assert usable_cores(most=2) == 2
    assert usable_cores(most=16) == 3


def test_every_core_where_the_system_has_no_mask(three_cores, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
