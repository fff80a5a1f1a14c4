"""Files are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import io
from core.decode import read_json
from core.errors import UserError
from core.io import atomic_path, read_once, sha256, write_bytes, write_json, write_text

REPO = Path(__file__).resolve().parents[1]
ENV = os.environ | {"PYTHONPATH": str(REPO)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_written_whole_and_nothing_else_left(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "er" / "note.txt", "Größe\n")
    assert (tmp_path / "deep" / "er" / "note.txt").read_bytes() == "Größe\n".encode()
    assert names(tmp_path / "deep" / "er") == ["note.txt"]


def test_temporary_lies_beside_the_target_which_is_untouched_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "value"
    write_bytes(target, b"old")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path and target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and names(tmp_path) == ["value"]


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt(), UserError("stop")])
@pytest.mark.parametrize("existing", [True, False])
def test_failure_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, error: BaseException, existing: bool
) -> None:
    target = tmp_path / "value"
    if existing:
        write_bytes(target, b"old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert names(tmp_path) == (["value"] if existing else [])
    assert not existing or target.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "value"
    write_bytes(target, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io.os, call, full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        write_bytes(target, b"new")
    assert caught.value.where == str(target) and "disk space" in caught.value.cure
    assert target.read_bytes() == b"old" and names(tmp_path) == ["value"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permission_bits_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "value", b"x")
        assert os.umask(mask) == mask, "the umask itself is left as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "value").stat().st_mode & 0o777 == mode


def test_folder_that_cannot_be_made_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write this file"):
        write_bytes(tmp_path / "file" / "value", b"x")

    def denied(*_: object, **__: object) -> None:  # chmod does not stop a super-user
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(io.tempfile, "mkstemp", denied)
    with pytest.raises(UserError, match=r"Permission denied.*choose a folder you may write to"):
        write_bytes(tmp_path / "value", b"x")
    assert names(tmp_path) == ["file"]


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "value").mkdir()
    with pytest.raises(UserError, match="cannot write this file"):
        write_bytes(tmp_path / "value", b"x")
    assert names(tmp_path) == ["value"]


def test_data_reach_the_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(io.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(io.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_bytes(tmp_path / "value", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [".hidden.tmp", "a.tmp", ".b.abcdefgh.tmp.pt", "step-1.pt"]
    for name in [*kept, ".step-1.pt.ab_3defg.tmp"]:
        (tmp_path / name).touch()
    assert io.remove_temporaries(tmp_path) == [tmp_path / ".step-1.pt.ab_3defg.tmp"]
    assert names(tmp_path) == sorted(kept)
    assert io.remove_temporaries(tmp_path / "none") == []


def test_a_killed_write_leaves_what_is_removed_later(tmp_path: Path) -> None:
    script = "import os; from core.io import atomic_path\nwith atomic_path('value'): os._exit(9)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=ENV, check=False)
    assert len(names(tmp_path)) == 1
    assert len(io.remove_temporaries(tmp_path)) == 1 and names(tmp_path) == []


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    data = bytes(range(256)) * 5000
    path.write_bytes(data)
    assert sha256(path) == hashlib.sha256(data).hexdigest()


def test_json_round_trip_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None], "a": 0.5}, indent=None)
    assert (tmp_path / "a.json").read_text() == '{"a": 0.5, "b": [1, null]}\n'
    assert read_json(tmp_path / "a.json") == {"a": 0.5, "b": [1, None]}


def test_json_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"bad": object()})
    assert read_json(tmp_path / "a.json") == 1 and names(tmp_path) == ["a.json"]


def test_a_name_that_is_no_text_keeps_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"w\xe4gen")
    io.write_text(tmp_path / "list.txt", name)
    assert (tmp_path / "list.txt").read_bytes() == b"w\xe4gen"


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5], "b": (float("inf"), {"c": -1})})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, 1.5],
        "b": [None, {"c": -1}],
    }


def test_what_was_read_is_kept_until_its_file_changes(tmp_path: Path) -> None:
    reads = []

    @read_once("times.txt", entries=4)
    def times(folder: Path) -> str:
        reads.append(folder)
        return (folder / "times.txt").read_text()

    write_text(tmp_path / "times.txt", "0.1")
    assert [times(tmp_path), times(tmp_path)] == ["0.1", "0.1"]
    assert len(reads) == 1
    write_text(tmp_path / "times.txt", "0.2")  # as long as before, in a new file
    assert times(tmp_path) == "0.2"
    (tmp_path / "times.txt").unlink()
    with pytest.raises(FileNotFoundError):
        times(tmp_path)
