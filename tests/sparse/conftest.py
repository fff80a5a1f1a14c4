"""Fixtures of the sparse engine's tests."""

from __future__ import annotations

import pytest

from core.sparse import set_backend


@pytest.fixture(params=["native", "torch"])
def backend(request):
    set_backend(request.param)
    yield request.param
    set_backend(None)
