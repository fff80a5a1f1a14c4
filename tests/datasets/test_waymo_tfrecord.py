"""TFRecord framing: published checksums, and files that are cut, altered or of another kind."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import google_crc32c
import pytest

from core.datasets.waymo.v1.tfrecord import Span, masked_crc, open_records, write_record
from core.errors import UserError

PAYLOADS = [b"first", b"", bytes(range(256)) * 300]


def bitwise_crc(content: bytes) -> int:
    """CRC-32C from its polynomial, 0x82F63B78 reflected."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a.tfrecord"
    with open(file, "wb") as stream:
        for payload in PAYLOADS:
            write_record(stream, payload)
    return file


def spans(path: Path) -> list[Span]:
    with open_records(path) as records:
        return list(records)


def test_checksums() -> None:
    """RFC 3720, B.4: 32 bytes of zeros, of ones, and rising; masked by its formula."""
    vectors = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    for content, crc in vectors.items():
        assert google_crc32c.value(content) == bitwise_crc(content) == crc
        rotated = int(f"{crc:032b}"[-15:] + f"{crc:032b}"[:-15], 2)
        assert masked_crc(content) == (rotated + 0xA282EAD8) % 2**32
    assert struct.pack("<I", masked_crc(struct.pack("<Q", 2168758))) == bytes.fromhex("58bd39b1")
    assert struct.pack("<I", masked_crc(struct.pack("<Q", 8140))) == bytes.fromhex("1108b15e")


def test_records_are_found_read_and_looked_into(path: Path) -> None:
    found = spans(path)
    assert [span.size for span in found] == [len(payload) for payload in PAYLOADS]
    assert found[-1].start + found[-1].size + 16 == path.stat().st_size
    with open_records(path) as records:
        for span, payload in zip(found, PAYLOADS):
            view = records.view(span)
            assert records.payload(span) == payload
            assert len(view) == len(payload)
            pieces = [
                slice(0, 3),
                slice(20_000, 20_010),
                slice(5, 70_000),
                slice(1, 4),
                slice(0, None),
            ]
            for piece in pieces:
                assert view[piece] == payload[piece]


def test_every_flipped_byte_is_found(path: Path) -> None:
    content = path.read_bytes()
    for at in [*range(len(content) - len(PAYLOADS[2]) + 40), len(content) - 1]:
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(UserError), open_records(path) as records:
            for span in list(records):
                records.payload(span)


def test_every_cut_is_found(path: Path) -> None:
    content, whole = path.read_bytes(), spans(path)
    for end in [*range(1, whole[2].start + 20), len(content) - 1]:
        path.write_bytes(content[:end])
        if end in (whole[1].start, whole[2].start):
            assert len(spans(path)) == [span.start for span in whole].index(end)
            continue
        with pytest.raises(UserError, match=r"a\.tfrecord: .*(cut short|no TFRecord)"):
            spans(path)


def test_errors_name_the_record_and_its_byte(path: Path) -> None:
    content, third = path.read_bytes(), spans(path)[2]
    path.write_bytes(content[: third.start + 100])
    with pytest.raises(
        UserError,
        match=f"record 3 at byte {third.start} is cut short: {len(content) - third.start - 100}",
    ):
        spans(path)
    path.write_bytes(content[: third.start + 5])
    with pytest.raises(
        UserError, match=f"record 3 at byte {third.start}: it is cut short in its header"
    ):
        spans(path)
    path.write_bytes(content[: third.start] + b"\xff" * 12 + content[third.start + 12 :])
    with pytest.raises(
        UserError, match=f"record 3 at byte {third.start}: its length does not have the checksum"
    ):
        spans(path)
    path.write_bytes(content[:-5] + b"\0" + content[-4:])
    with (
        pytest.raises(UserError, match=f"record 3 at byte {third.start}: its payload"),
        open_records(path) as records,
    ):
        records.payload(third)


def test_a_length_that_fits_no_memory_is_refused(tmp_path: Path) -> None:
    """Of a file as long as it says, which is sparse."""
    path, length = tmp_path / "a.tfrecord", struct.pack("<Q", 1 << 40)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)))
    with pytest.raises(UserError, match="cut short"):
        spans(path)
    os.truncate(path, (1 << 40) + 16)
    with pytest.raises(UserError, match="at most"):
        spans(path)


def test_a_place_of_another_file_is_refused(path: Path) -> None:
    first = spans(path)[0]
    with open_records(path) as records:
        with pytest.raises(UserError, match="another length"):
            records.payload(Span(first.start, first.size + 1))
        with pytest.raises(UserError, match="byte 3, where no record begins"):
            records.payload(Span(3, first.size))
        with pytest.raises(UserError, match="where no record begins"):
            records.payload(Span(1 << 40, first.size))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1" + bytes(40), "dataset.format: v2"),
        (gzip.compress(b"x" * 99, mtime=0), "compressed with gzip"),
        (b"some text that is long enough", "no TFRecord file"),
        (b"x", "no TFRecord file"),
    ],
    ids=["parquet", "gzip", "text", "short"],
)
def test_other_files_are_refused_by_name(path: Path, content: bytes, what: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=what):
        spans(path)


def test_missing_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        spans(tmp_path / "none.tfrecord")
    with pytest.raises(UserError, match="cannot read"):
        spans(tmp_path)
    os.mkfifo(tmp_path / "pipe.tfrecord")
    with pytest.raises(UserError, match="no regular file"):
        spans(tmp_path / "pipe.tfrecord")
