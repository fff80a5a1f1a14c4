"""Files in other people's folders: links, loops, hidden names, order of numbers, suffixes in upper case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.datasets.find import check_pattern, find_files
from core.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root: Path, pattern: str) -> list[str]:
    return [str(path.relative_to(root)) for path in find_files(root, pattern)]


@pytest.mark.parametrize("pattern", ["**/*.bin", "*/*.bin", "**/d?/*.bin", "**/**/*.bin"])
def test_linked_folders_are_entered(tmp_path, pattern):
    touch(tmp_path, "l/d0/000000.bin", "e/000001.bin")
    (tmp_path / "l/d1").symlink_to("../e")
    assert found(tmp_path / "l", pattern) == ["d0/000000.bin", "d1/000001.bin"]


def test_a_loop_of_links_ends(tmp_path):
    touch(tmp_path, "d0/a.bin")
    (tmp_path / "d0/up").symlink_to("..")
    (tmp_path / "d0/self").symlink_to(".")
    (tmp_path / "d0/own").symlink_to("own")
    assert found(tmp_path, "**/*.bin") == ["d0/a.bin"]
    assert found(tmp_path / "d0", "**/*.bin") == ["a.bin"]


def test_one_folder_linked_twice_is_two_drives(tmp_path):
    touch(tmp_path, "e/a.bin")
    for name in ("d0", "d1"):
        (tmp_path / name).symlink_to("e")
    assert found(tmp_path, "d*/*.bin") == ["d0/a.bin", "d1/a.bin"]


def test_hidden_names_are_left_out_unless_asked_for(tmp_path):
    touch(tmp_path, "000000.bin", "._000000.bin", ".bin", ".trash/1.bin")
    assert found(tmp_path, "**/*.bin") == ["000000.bin"]
    assert found(tmp_path, ".trash/*.bin") == [".trash/1.bin"]
    assert found(tmp_path, "._*.bin") == ["._000000.bin"]


def test_numbers_count_by_value(tmp_path):
    names = ["1.bin", "2.bin", "10.bin", "d2/9.bin", "d10/1.bin", "d10/s-2.bin", "d10/s-11.bin"]
    touch(tmp_path, *names)
    assert found(tmp_path, "**/*.bin") == names


@pytest.mark.parametrize(
    "names",
    [
        ["000000.bin", "000001.bin", "000010.bin"],
        ["a-00001.bin", "a000001.bin", "b.bin", "scan_01.bin", "scan_02.bin"],
        ["1566279795.05.bin", "1566279795.1.bin", "1566279795.25.bin", "1566279796.05.bin"],
        ["01.bin", "1.bin", "02.bin"],
    ],
)
def test_order_of_names(tmp_path, names):
    touch(tmp_path, *reversed(names))
    assert found(tmp_path, "*.bin") == names


def test_suffix_in_upper_case(tmp_path):
    touch(tmp_path, "a.BIN", "b.bin", "B.Bin", "c.PCD")
    assert found(tmp_path, "*.bin") == ["B.Bin", "a.BIN", "b.bin"]
    assert found(tmp_path, "*.PCD") == ["c.PCD"]


def test_dead_links_are_seen_and_folders_are_no_files(tmp_path):
    (tmp_path / "gone.bin").symlink_to("nowhere.bin")
    (tmp_path / "folder.bin").mkdir()
    os.mkfifo(tmp_path / "pipe.bin")
    assert found(tmp_path, "*.bin") == ["gone.bin"]


def test_folder_of_another_user(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        find_files(tmp_path, "*.bin")


@pytest.mark.parametrize("pattern", ["", " ", "/data/*.bin", "velodyne/"])
def test_patterns_that_match_nothing_below_a_root(pattern):
    with pytest.raises(ValueError, match=r"below dataset\.root"):
        check_pattern(pattern)
