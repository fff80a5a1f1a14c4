"""The cores a process may use follow its affinity mask; a processor has a name, and bf16 instructions or none."""

from __future__ import annotations

import os
import platform

import pytest

from core import machine
from core.machine import NO_BF16, native_bf16, processor_name, usable_cores


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


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("sse2 avx2", " with AVX2"),
        ("avx2 avx512f avx512_bf16", " with AVX512-BF16"),
        ("avx2 avx512f avx512_bf16 amx_bf16", " with AMX"),
        ("sse2", ""),
    ],
)
def test_a_processor_is_named_with_its_best_instruction_set(
    flags, best, three_cores, monkeypatch, tmp_path
):
    text = f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t: amx_bf16\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert processor_name() == f"Some CPU{best}, 3 cores"


def test_a_processor_the_system_does_not_name(three_cores, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert processor_name() == f"{platform.machine()}, 3 cores"


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx2 fma", False),
        ("flags\t\t: avx512f avx512bw avx512vl avx512dq avx512_vnni", False),
        ("flags\t\t: avx512f avx512_bf16", True),
        ("flags\t\t: avx2 amx_bf16", True),
        ("Features\t: fp asimd svebf16", False),
        ("Features\t: fp asimd bf16", True),
    ],
)
def test_bf16_instructions_are_seen_and_can_be_masked(line, native, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.delenv(NO_BF16, raising=False)
    assert native_bf16() is native
    monkeypatch.setenv(NO_BF16, "0")
    assert native_bf16() is native
    monkeypatch.setenv(NO_BF16, "1")
    assert not native_bf16()


def test_a_system_without_such_a_file_has_no_known_bf16(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert not native_bf16()
