"""The cores a process may use follow its affinity mask; a processor has a name, and bf16 instructions or none."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from core import machine
from core.errors import UserError
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


# --- caches ---------------------------------------------------------------------------------------------------------
CACHES = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HOME")


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose temporary folder is all that can be written to; returns it."""
    (tmp_path / "file").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for name in CACHES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setattr(machine.tempfile, "tempdir", str(temporary))
    return temporary


def test_a_home_that_can_be_written_to_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CACHES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    machine.provide_caches()
    assert not {*CACHES[:3]} & os.environ.keys()


def test_without_a_home_caches_go_to_a_temporary_folder_of_one_s_own(homeless: Path) -> None:
    for _ in range(2):  # the second command finds the first one's
        machine.provide_caches()
        folder = homeless / f"lidistill-{os.getuid()}"
        assert os.environ["XDG_CACHE_HOME"] == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        del os.environ["XDG_CACHE_HOME"]


def test_somebody_else_s_folder_is_not_trusted(homeless: Path) -> None:
    (homeless / f"lidistill-{os.getuid()}").mkdir(mode=0o777)
    (homeless / f"lidistill-{os.getuid()}").chmod(0o777)
    machine.provide_caches()
    chosen = Path(os.environ["XDG_CACHE_HOME"])
    assert chosen.parent == homeless and chosen.name != f"lidistill-{os.getuid()}"


def test_no_home_and_no_account(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    machine.provide_caches()
    assert os.environ["XDG_CACHE_HOME"].startswith(str(homeless))


@pytest.mark.parametrize("text", ["x", "", "-3", "0", "nan", "inf"])
def test_a_timeout_that_is_no_number_of_minutes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.TIMEOUT, text)
    with pytest.raises(UserError, match=f"{machine.TIMEOUT}: expected minutes"):
        machine.patience()


def test_timeouts_may_be_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(machine.TIMEOUT, raising=False)
    assert machine.patience().total_seconds() == 1800
    monkeypatch.setenv(machine.TIMEOUT, "0.5")
    assert machine.patience().total_seconds() == 30
