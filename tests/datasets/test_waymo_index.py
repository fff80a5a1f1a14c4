"""The index of a split's frames: one file that all processes map, built once, in parallel and by one process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from waymo_segments import FakeSegment

from core.datasets import index_folder as index_files
from core.datasets.waymo import index as waymo_index
from core.datasets.waymo.frame import FRAME_ROW
from core.datasets.waymo.index import FrameIndex, open_index
from core.errors import UserError

NAMES = ("a", "b", "c")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.fake").write_bytes(b"frames")
    return folder


def segments(root: Path, **options) -> dict[str, FakeSegment]:
    made = {}
    for count, name in enumerate(NAMES, 3):
        made[name] = FakeSegment(root / f"{name}.fake", count, root / "seen")
    return made | options


def seen(root: Path) -> list[str]:
    """Segments that were gone through since the last call."""
    path = root / "seen"
    names = path.read_text().split() if path.is_file() else []
    path.unlink(missing_ok=True)
    return sorted(names)


def open_one(root: Path, only=None, workers: int = 0) -> FrameIndex:
    wanted = {n: s for n, s in segments(root).items() if only is None or n in only}
    return open_index(root, "training", wanted, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_the_segments(root, workers):
    index = open_one(root, workers=workers)
    assert index.names == NAMES
    assert index.bounds.tolist() == [0, 3, 7, 12]
    expected = np.concatenate([segment.frames() for segment in segments(root).values()])
    assert index.rows.dtype == FRAME_ROW
    np.testing.assert_array_equal(index.rows, expected)
    assert [index.segment_of(row) for row in (0, 2, 3, 6, 7, 11)] == [0, 0, 1, 1, 2, 2]
    assert index.rows_of(1) == range(3, 7)


def test_it_is_mapped_and_pickles_small(root):
    index = open_one(root)
    assert isinstance(index.rows, np.memmap)
    data = pickle.dumps(index)
    assert len(data) < 300
    again = pickle.loads(data)
    assert isinstance(again.rows, np.memmap)
    np.testing.assert_array_equal(again.rows, index.rows)


def test_segments_are_gone_through_once(root):
    open_one(root)
    assert seen(root) == list(NAMES)
    open_one(root)
    assert seen(root) == []
    os.utime(root / "b.fake", (1, 1))
    index = open_one(root)
    assert seen(root) == ["b"]
    assert index.names == NAMES


def test_a_part_of_the_split_has_an_index_of_its_own(root):
    whole = open_one(root)
    seen(root)
    part = open_one(root, only=("a", "c"))
    assert part.names == ("a", "c")
    np.testing.assert_array_equal(part.rows[3:], whole.rows[7:])
    assert open_one(root).folder == whole.folder  # which was kept beside it
    assert seen(root) == []


def test_what_a_stopped_job_has_done_is_not_done_again(root):
    (root / "c.fake").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"c\.fake: the record is cut short"):
        open_one(root)
    assert seen(root) == list(NAMES)
    assert not list(root.rglob("index.json"))
    (root / "c.fake").write_bytes(b"mended")
    open_one(root)
    assert seen(root) == ["c"]
    assert sorted(path.name for path in root.rglob("*") if path.suffix in (".npy", ".tmp")) == [
        "rows.npy"
    ]


def test_a_damaged_segment_in_a_worker_is_named(root):
    (root / "b.fake").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"b\.fake: the record is cut short"):
        open_one(root, workers=2)


def test_damaged_indices_are_made_anew(root):
    index = open_one(root)
    rows = np.array(index.rows)
    renamed = (index.folder / "index.json").read_bytes().replace(b'"frames": 3', b'"frames": 2', 1)
    damage = (("rows.npy", None), ("index.json", b"{"), ("rows.npy", b""), ("index.json", renamed))
    for name, content in damage:
        path = index.folder / name
        if content is None:
            content = bytearray(path.read_bytes())
            content[-7] ^= 4
        path.write_bytes(content)
        seen(root)
        np.testing.assert_array_equal(open_one(root).rows, rows)
        assert seen(root) == list(NAMES)


def test_read_only_root_uses_the_cache_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_files.os, "access", lambda path, mode: False)  # tests may run as root
    index = open_one(root)
    assert index.folder.is_relative_to(tmp_path / "cache" / "lidistill")
    assert not (root / ".lidistill").exists()


class Other(FakeSegment):
    """A segment whose rows are wrong."""

    def frames(self) -> np.ndarray:
        rows = super().frames()
        return self.change(rows)


def repeated(rows):
    rows["timestamp"][1] = rows["timestamp"][0]
    return rows


def mirrored(rows):
    rows["pose"][2, 0] *= -1
    return rows


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: rows[:0], "holds no frame"),
        (repeated, "not in the order of their times"),
        (mirrored, r"the pose of frame 1500000000200000 is no rotation but a mirror image"),
    ],
)
def test_rows_that_no_index_may_hold(root, change, text):
    segment = Other(root / "a.fake")
    segment.change = change
    with pytest.raises(UserError, match=rf"a\.fake: .*{text}"):
        open_index(root, "training", {"a": segment}, 0)


def test_a_file_that_cannot_be_looked_at(root):
    (root / "folder").write_bytes(b"")
    below = FakeSegment(root / "folder" / "a.fake")
    with pytest.raises(UserError, match=r"folder/a\.fake: cannot be read \(Not a directory\)"):
        open_index(root, "training", {"a": below}, 0)


def _open(root, queue):
    queue.put(len(open_one(root).rows))


def test_only_one_process_builds(root, monkeypatch):
    original = waymo_index._build

    def slow_build(*args):
        time.sleep(0.3)  # long enough for the others to arrive
        original(*args)

    monkeypatch.setattr(waymo_index, "_build", slow_build)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_open, args=(root, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    counts = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert counts == [12, 12, 12]
    assert seen(root) == list(NAMES)
