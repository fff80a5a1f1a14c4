"""The package of window attention is tested from its folder, compiled if it was not yet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "third_party" / "SparseTransformer"))


@pytest.fixture(scope="session", autouse=True)
def kernels():
    from sptr.build import build

    return build()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["generic", "avx2", "avx512"])
def isa(request):
    """Every instruction set this machine has."""
    import sptr

    if not sptr.set_isa(request.param):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    sptr.set_isa("best")
