"""One decoder for text, JSON and arrays: right bytes give what was written, all others a UserError with the file."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from core.decode import (
    DAMAGE,
    decoding,
    kept,
    parse_array,
    parse_json,
    read_array,
    read_arrays,
    read_bytes,
    read_json,
    read_json_lines,
    read_text,
)
from core.errors import UserError


@dataclass(frozen=True)
class Entry:
    name: str
    sizes: tuple[int, float]
    note: str | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=array.dtype.hasobject)
    return stream.getvalue()


# --- text -------------------------------------------------------------------------------------------------------------
def test_text_with_and_without_a_byte_order_mark(file: Path) -> None:
    assert read_text(written(file, "ä\nb".encode())) == "ä\nb"
    assert read_text(written(file, "ä\nb".encode("utf-8-sig"))) == "ä\nb"


def test_bytes_that_are_no_text_are_named_with_their_line(file: Path) -> None:
    with pytest.raises(UserError, match="byte 0xe4 in line 3") as caught:
        read_text(written(file, "a\nb\nä\n".encode("latin-1")))
    assert caught.value.where == str(file)


@pytest.mark.parametrize("read", [read_bytes, read_text, read_json, read_array, read_arrays])
def test_what_cannot_be_opened_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, match in [
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "directory"),
        (tmp_path / ("x" * 300), "name too long"),
        (tmp_path / "null\0byte", "null byte"),
    ]:
        with pytest.raises(UserError, match=match) as caught:
            read(path)
        assert caught.value.where == str(path)


def test_a_pipe_does_not_stop_a_job(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(UserError):
        read_array(tmp_path / "pipe")


def test_a_file_larger_than_its_limit_is_refused_unread(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole; reading it would fill the memory
    with pytest.raises(UserError, match="at most"):
        read_text(file)


@pytest.mark.parametrize("error", [*DAMAGE, OSError])
def test_each_exception_of_the_list_becomes_a_user_error(error: type[Exception]) -> None:
    with pytest.raises(UserError, match="image") as caught, decoding("a.png", "image", "Copy it."):
        raise error("broken")
    assert caught.value.where == "a.png"


def test_other_exceptions_pass() -> None:
    with pytest.raises(RuntimeError), decoding("a.png", "image"):
        raise RuntimeError("a worker was killed")
    with pytest.raises(UserError, match="said before"), decoding("a.png", "image"):
        raise UserError("said before")


# --- JSON -------------------------------------------------------------------------------------------------------------
def test_json_of_any_and_of_a_given_type(file: Path) -> None:
    written(file, b'{"name": "a", "sizes": [1, 2], "more": [null]}')
    assert read_json(file) == {"name": "a", "sizes": [1, 2], "more": [None]}
    assert read_json(file, Entry) == Entry("a", (1, 2.0))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b'{"a": 1, "a": 2}', "key 'a' is written twice"),
    ],
)
def test_what_is_no_json_is_named(file: Path, content: bytes, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_json(written(file, content))
    assert caught.value.where == str(file)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"sizes": [1, 2]}', "key 'name' is missing"),
        (b'{"name": 5, "sizes": [1, 2]}', "key 'name': .*string"),
        (b'{"name": "a", "sizes": [1, "2"]}', r"key 'sizes.1': .*number"),
        (b'{"name": "a", "sizes": [1.5, 2]}', r"key 'sizes.0': .*integer"),
        (b'{"name": "a", "sizes": null}', "key 'sizes'"),
        (b"[]", "object"),
        (b"null", "object"),
    ],
)
def test_right_syntax_and_another_type_names_the_key(
    file: Path, content: bytes, match: str
) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_json(written(file, content), Entry)
    assert caught.value.where == str(file)


def test_lines_cut_short_and_damaged_are_told(file: Path) -> None:
    written(file, b'{"a": 1}\n\n{"a": "x"}\n{"a": \xff}\n{"a": 2}\n{"a"')
    values, damaged = read_json_lines(file, dict[str, int])
    assert values == [{"a": 1}, {"a": 2}]
    assert [sentence.split()[1].rstrip(":") for sentence in damaged] == ["3", "4", "6"]
    assert damaged[-1] == "line 6 was cut short"


# --- arrays -----------------------------------------------------------------------------------------------------------
ARRAYS = [
    np.arange(12, dtype="<f4").reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.zeros((0, 4)),
    np.array(5),
    np.array([b"ab", b"c"]),
    np.zeros(2, [("x", "<f4"), ("id", "u1")]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back_as_numpy_wrote_them(file: Path, array: np.ndarray) -> None:
    written(file, npy(array))
    for read in (
        read_array(file),
        read_array(file, mapped=True),
        parse_array(npy(array), "memory"),
    ):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    np.savez_compressed(file.with_suffix(".npz"), a=array, b=array)
    packed = read_arrays(file.with_suffix(".npz"))
    assert list(packed) == ["a", "b"]
    np.testing.assert_array_equal(packed["b"], array)


def header(text: str) -> bytes:
    """A .npy file of one zero float32 with this header."""
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode() + bytes(4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x07\x00" + bytes(100),
        npy(np.arange(4.0))[:-1],
        npy(np.arange(4.0)) + b"x",
        npy(np.array([{}, None])),  # pickled objects
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), "),  # TokenError
        header("{'descr': '<f4' 'x' 3, 'fortran_order': False, 'shape': (1,), }"),  # SyntaxError
        header("{'descr': 5, 'fortran_order': False, 'shape': (1,), }"),
        header("(" * 100),
        header("{'descr': 'V0', 'fortran_order': False, 'shape': (1000000000000,), }"),
    ],
)
def test_a_damaged_array_is_named(file: Path, content: bytes) -> None:
    written(file, content)
    with zipfile.ZipFile(file.with_suffix(".npz"), "w") as archive:
        archive.writestr("a.npy", content)
    for read in (
        lambda: read_array(file),
        lambda: read_array(file, mapped=True),
        lambda: parse_array(content, file),
        lambda: read_arrays(file.with_suffix(".npz")),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert caught.value.where in (str(file), str(file.with_suffix(".npz")))


def test_an_archive_that_unpacks_to_more_than_it_claims_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(100_000)))
    content = bytearray(file.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    content[place : place + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(UserError):
        read_arrays(written(file, bytes(content)))


def test_an_archive_that_would_fill_the_memory_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.decode._UNPACKED", 1000)
    np.savez_compressed(file.with_suffix(".npz"), a=np.zeros(1000))
    with pytest.raises(UserError, match=r"'a\.npy' would take 8128 bytes"):
        read_arrays(file.with_suffix(".npz"))


def test_json_in_memory_is_called_what_it_is_called() -> None:
    with pytest.raises(UserError) as caught:
        parse_json("{", "metadata of a.safetensors", cure="Export it again")
    assert caught.value.where == "metadata of a.safetensors"
    assert caught.value.cure == "Export it again"


def test_a_kept_result_that_cannot_be_read_is_none(file: Path) -> None:
    assert kept(lambda: read_json(written(file, b"[1]"))) == [1]
    assert kept(lambda: read_json(written(file, b"[1"))) is None
    with pytest.raises(ZeroDivisionError):
        kept(lambda: 1 / 0)
