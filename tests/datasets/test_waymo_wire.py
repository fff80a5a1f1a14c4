"""Messages and matrices against the official protobuf library, the format's own examples, and damaged bytes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from waymo_protos import message

from core.datasets.waymo.wire.matrices import decode_matrix, encode_matrix
from core.datasets.waymo.wire.message import BYTES, FIXED32, FIXED64, VARINT, Malformed, Message
from core.datasets.waymo.wire.varints import decode_int32, encode_int32
from core.datasets.waymo.wire.writer import Writer

EDGES = [0, 1, 127, 128, 16383, 16384, 2**21, 2**31 - 1, -1, -128, -(2**31)]


def of(content: bytes) -> Message:
    return Message(memoryview(content), "Frame")


# --- messages ---------------------------------------------------------------------------------------------------------
def test_the_examples_of_the_encoding_guide() -> None:
    """https://protobuf.dev/programming-guides/encoding/: Test1, Test2, Test3 and packed Test5."""
    assert of(bytes.fromhex("089601")).integer(1) == 150
    assert of(bytes.fromhex("120774657374696e67")).text(2) == "testing"
    assert of(bytes.fromhex("1a03089601")).part(3, "c").integer(1) == 150
    assert of(bytes.fromhex("3206038e029ea705")).integers(6) == [3, 270, 86942]
    assert Writer().integer(1, 150).tobytes() == bytes.fromhex("089601")
    assert Writer().text(2, "testing").tobytes() == bytes.fromhex("120774657374696e67")
    nested = Writer().part(3, Writer().integer(1, 150))
    assert (nested.tobytes(), nested.size) == (bytes.fromhex("1a03089601"), 5)


def test_what_protobuf_writes_is_read() -> None:
    official = message("LaserCalibration")(
        name=1, beam_inclination_min=-0.31, beam_inclinations=[-0.3, 0.1, 2.5]
    )
    official.extrinsic.transform.extend(range(16))
    found = of(official.SerializeToString())
    assert found.integer(1) == 1
    assert found.double(3) == -0.31
    assert found.double(4) is None
    assert found.doubles(2).tolist() == [-0.3, 0.1, 2.5]
    assert found.part(5, "extrinsic").doubles(1).tolist() == list(range(16))
    assert [(field.number, field.kind) for field in found] == [
        (1, VARINT), *[(2, FIXED64)] * 3, (3, FIXED64), (5, BYTES)
    ]  # fmt: skip


def test_what_is_written_protobuf_reads_to_the_byte() -> None:
    frame = Writer().part(1, Writer().text(1, "name")).integer(2, -(2**40))
    frame.part(3, Writer().doubles(1, np.arange(16.0)))
    for camera in (3, 1):
        frame.part(4, Writer().integer(1, camera).content(2, b"\0\xff" * 99).double(5, 0.25))
    official = message("Frame")()
    official.ParseFromString(frame.tobytes())
    assert official.context.name == "name"
    assert official.timestamp_micros == -(2**40)
    assert list(official.pose.transform) == list(range(16))
    assert [image.name for image in official.images] == [3, 1]
    assert official.images[1].image == b"\0\xff" * 99
    assert official.SerializeToString() == frame.tobytes()
    assert [part.integer(1) for part in of(frame.tobytes()).parts(4, "image")] == [3, 1]
    assert of(frame.tobytes()).integer(2) == -(2**40)


@pytest.mark.parametrize("value", EDGES)
def test_integers_of_all_lengths(value: int) -> None:
    official = message("MatrixShape")(dims=[value, 7]).SerializeToString()
    assert of(official).integers(1) == [value, 7]
    assert Writer().integers(1, [value, 7]).tobytes() == official


def test_repeated_numbers_packed_and_unpacked() -> None:
    packed = Writer().content(1, np.arange(3.0).tobytes()).double(1, 9.0).tobytes()
    assert of(packed).doubles(1).tolist() == [0, 1, 2, 9]
    assert of(Writer().content(1, encode_int32(np.array(EDGES))).integer(1, 5).tobytes()).integers(
        1
    ) == [*EDGES, 5]
    assert of(b"\x0d" + struct.pack("<f", 2.5)).floats(1).tolist() == [2.5]
    assert next(iter(of(b"\x0d\0\0\0\0"))).kind == FIXED32
    assert of(b"").doubles(1).shape == (0,)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("0a05616263", "reaches beyond its end"),  # five bytes of three
        ("0affffffffffffffffff01", "reaches beyond its end"),  # 2^64 - 1 bytes
        ("09000000", "reaches beyond its end"),
        ("0880", "cut short"),
        ("08" + "ff" * 9 + "02", "longer than 64 bits"),
        ("08" + "80" * 10 + "00", "longer than 64 bits"),
        ("0b", "wire type 3"),
        ("0c", "wire type 4"),
        ("0e00", "wire type 6"),
        ("0000", "numbered 0"),
        ("80808080100800", "numbered 536870912"),
    ],
)  # fmt: skip
def test_damaged_messages_are_refused(content: str, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        list(of(bytes.fromhex(content)))


def test_every_cut_of_a_message_inside_a_field_is_refused() -> None:
    content = Writer().integer(1, 300).text(2, "abc").double(3, 1.5).tobytes()
    for end in set(range(len(content))) - {0, 3, 8}:
        with pytest.raises(Malformed):
            list(of(content[:end]))


def test_fields_of_another_type_or_twice_are_refused() -> None:
    number, text = Writer().integer(1, 7).tobytes(), Writer().text(1, "\u00e4").tobytes()
    for read in (Message.text, Message.double, Message.content, Message.doubles):
        with pytest.raises(Malformed, match="wire type 0"):
            read(of(number), 1)
    with pytest.raises(Malformed, match="wire type 2; expected 0"):
        of(text).integer(1)
    with pytest.raises(Malformed, match="is there 2 times"):
        of(number + number).integer(1)
    with pytest.raises(Malformed, match="no UTF-8"):
        of(text[:-1] + b"\xff").text(1)


def test_lists_longer_than_asked_for_are_refused() -> None:
    content = Writer().doubles(1, np.zeros(17)).tobytes()
    with pytest.raises(Malformed, match="up to 16 numbers"):
        of(content).doubles(1, most=16)
    with pytest.raises(Malformed, match="more than 3 numbers"):
        of(Writer().integers(1, [1] * 4).tobytes()).integers(1, most=3)
    with pytest.raises(Malformed, match="more than 3 numbers"):
        of(Writer().content(1, bytes(100)).tobytes()).integers(1, most=3)
    with pytest.raises(Malformed, match="no list"):
        of(Writer().content(1, bytes(7)).tobytes()).doubles(1)


# --- matrices ---------------------------------------------------------------------------------------------------------
def official_matrix(name: str, values: np.ndarray) -> bytes:
    matrix = message(name)(data=values.ravel().tolist())
    matrix.shape.dims.extend(values.shape)
    return matrix.SerializeToString()


@pytest.mark.parametrize("numbers", [EDGES * 4, [0, 5, 22, 127] * 11, [128] * 44, []])
def test_packed_int32(numbers: list[int]) -> None:
    values = np.array(numbers, np.int32)
    official = message("MatrixInt32")(data=numbers).SerializeToString()
    packed = encode_int32(values)
    assert official == (Writer().content(1, packed).tobytes() if numbers else b"")
    found = decode_int32(packed, len(numbers))
    assert found.dtype == np.int32
    assert found.tolist() == numbers


def test_a_minus_one_of_five_bytes_is_no_int32() -> None:
    """protobuf writes ten; 2^32 - 1 is what five of them say."""
    with pytest.raises(Malformed, match="32 bits"):
        decode_int32(bytes.fromhex("ffffffff0f"), 1)


@pytest.mark.parametrize(
    "packed", ["8001", "80", "ff" * 9 + "7f", "ff" * 10, "01" * 3, "8001" * 3, ""]
)
def test_damaged_packed_int32(packed: str) -> None:
    with pytest.raises(Malformed):
        decode_int32(bytes.fromhex(packed), 2)


def matrices() -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 300, (4, 6, 2)).astype(np.int32)
    return [("MatrixFloat", rng.normal(size=(4, 6, 4)).astype(np.float32)), ("MatrixInt32", labels)]


@pytest.mark.parametrize(("name", "values"), matrices())
def test_matrices_as_protobuf_writes_them(name: str, values: np.ndarray) -> None:
    blob = encode_matrix(values)
    assert zlib.decompress(blob) == official_matrix(name, values)
    for shape in (values.shape, (None, None, values.shape[2])):
        found = decode_matrix(
            zlib.compress(official_matrix(name, values)), values.dtype.type, shape, "range image"
        )
        assert found.dtype == values.dtype
        assert found.flags.writeable
        np.testing.assert_array_equal(found, values)


def test_matrices_with_unpacked_or_divided_data() -> None:
    shape = Writer().integers(1, [2, 2])
    singly = Writer().integers(1, [5, -6, 7, 300]).part(2, shape).tobytes()
    divided = Writer().content(1, b"\x05").content(1, b"\x06\x07\x08").part(2, shape).tobytes()
    assert decode_matrix(zlib.compress(singly), np.int32, (2, None), "x").tolist() == [
        [5, -6],
        [7, 300],
    ]
    assert decode_matrix(zlib.compress(divided), np.int32, (2, 2), "x").tolist() == [[5, 6], [7, 8]]


@pytest.mark.parametrize("shape", [(4, 6, 2), (4, 5, 4), (None, None, 6), (4, 24), (4, 6, 4, 1)])
def test_another_shape_is_refused(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(Malformed, match="pixel pose"):
        decode_matrix(encode_matrix(matrices()[0][1]), np.float32, shape, "pixel pose")


def test_a_shape_that_is_not_that_of_the_values_is_refused() -> None:
    for dtype, data in ((np.float32, bytes(12)), (np.int32, bytes(3))):
        for dims in ([2, 2], [1, 2], [-1, -3], [0, 0], [2**31 - 1, 2**31 - 1], []):
            content = Writer().content(1, data).part(2, Writer().integers(1, dims)).tobytes()
            with pytest.raises(Malformed):
                decode_matrix(zlib.compress(content), dtype, (None, None), "x")


def test_what_expands_beyond_its_shape_is_refused_before_it_does() -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    with pytest.raises(Malformed, match="beyond what its shape allows"):
        decode_matrix(bomb, np.float32, (64, 2650, 4), "x")


def test_damaged_blobs_are_refused() -> None:
    blob = encode_matrix(matrices()[0][1])
    for damaged in (
        b"",
        blob[:-1],
        blob[: len(blob) // 2],
        blob + b"x",
        b"x" + blob,
        blob[:-1] + b"\0",
    ):
        with pytest.raises(Malformed):
            decode_matrix(damaged, np.float32, (None, None, 4), "x")
    with pytest.raises(TypeError, match="float64"):
        encode_matrix(np.zeros((2, 2)))
