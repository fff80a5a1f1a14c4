"""The wire format of protocol buffers, as far as Waymo's files use it: messages are read without protobuf.

A message is a row of fields: a tag (number and kind), then a varint, 4 or 8 bytes, or a length and that many bytes.
What a reader does not ask for is stepped over by its length alone. Repeated numbers are accepted packed and unpacked.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["BYTES", "FIXED32", "FIXED64", "VARINT", "Field", "Malformed", "Message", "Source"]

# Kinds of fields; 3 and 4 are groups, which no message here has.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}  # bytes
_HEADER = 20  # bytes, the longest tag and the longest number after it
_LONGEST = 10  # bytes of a varint
# Of one message: a frame has hundreds, the unpacked values of a range image 339,200.
_MOST_FIELDS = 1 << 20
_MOST_TEXT = 1 << 12  # bytes
_MOST_NUMBERS = 1 << 16  # of a repeated field
_WORD = 1 << 64


class Malformed(ValueError):
    """Bytes that are not the message they should be; whoever knows the file makes a UserError of it."""


class Source(Protocol):
    """Bytes that messages lie in: a memoryview, or a part of a file that is read as it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> memoryview: ...


class Field(NamedTuple):
    """Where a field lies.

    Attributes:
        number: as the .proto file gives it. kind: wire type. value: of a varint, unsigned; else 0.
        start, stop: bytes of its content, counted from the start of the source.
    """

    number: int
    kind: int
    value: int
    start: int
    stop: int


class Message:
    """A serialised message. Its fields are gone through once, when the first one is asked for.

    Args:
        source: holds it. name: what errors call it. start, stop: where it lies in the source; by default all of it.
    """

    def __init__(
        self, source: Source, name: str = "message", start: int = 0, stop: int | None = None
    ) -> None:
        self.source = source
        self._start = start
        self._stop = len(source) if stop is None else stop
        self._known: dict[int, list[Field]] | None = None
        self.name = name

    def __iter__(self) -> Iterator[Field]:
        """Go through all fields.

        Raises:
            Malformed: one is cut short, of an unknown kind, or there are too many.
        """
        at = self._start
        for _ in range(_MOST_FIELDS):
            if at == self._stop:
                return
            field = self._field(at)
            at = field.stop
            yield field
        raise Malformed(f"{self.name} has more than {_MOST_FIELDS} fields")

    def _field(self, at: int) -> Field:
        window = self.source[at : min(at + _HEADER, self._stop)]
        tag, used = self._varint(window, 0)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, used = self._varint(window, used)
            return self._placed(Field(number, kind, value, at + used, at + used))
        if kind == BYTES:
            size, used = self._varint(window, used)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise Malformed(f"{self.name} has a field of wire type {kind}, which these files lack")
        return self._placed(Field(number, kind, 0, at + used, at + used + size))

    def _placed(self, field: Field) -> Field:
        if not 0 < field.number < 1 << 29:
            raise Malformed(f"{self.name} has a field numbered {field.number}")
        if field.stop > self._stop:
            raise Malformed(f"field {field.number} of {self.name} reaches beyond its end")
        return field

    def _varint(self, window: memoryview, at: int) -> tuple[int, int]:
        """A number and where it ends."""
        value = shift = 0
        for place in range(at, min(at + _LONGEST, len(window))):
            byte = window[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= _WORD:
                    break
                return value, place + 1
            shift += 7
        raise Malformed(f"a number of {self.name} is cut short or longer than 64 bits")

    # --- fields by number ---------------------------------------------------------------------------------------------
    def all(self, number: int) -> Sequence[Field]:
        """The fields of a number, in their order.

        Raises:
            Malformed: as of :meth:`__iter__`.
        """
        if self._known is None:
            known: dict[int, list[Field]] = {}
            for field in self:
                known.setdefault(field.number, []).append(field)
            self._known = known
        return self._known.get(number, ())

    def one(self, number: int, kind: int) -> Field | None:
        """The only field of a number, None where there is none.

        Raises:
            Malformed: there are two (the later one would win without a word), or it is of another kind.
        """
        fields = self.all(number)
        if not fields:
            return None
        if len(fields) > 1:
            raise Malformed(f"field {number} of {self.name} is there {len(fields)} times")
        return self._of_kind(fields[0], kind)

    def _of_kind(self, field: Field, kind: int) -> Field:
        if field.kind != kind:
            what = f"field {field.number} of {self.name} has wire type {field.kind}"
            raise Malformed(f"{what}; expected {kind}")
        return field

    def integer(self, number: int, default: int = 0) -> int:
        """An int32, int64, enum or bool."""
        field = self.one(number, VARINT)
        if field is None:
            return default
        return _signed(field.value)

    def double(self, number: int) -> float | None:
        """A double; None where it is missing."""
        field = self.one(number, FIXED64)
        if field is None:
            return None
        return float(struct.unpack("<d", self.source[field.start : field.stop])[0])

    def text(self, number: int) -> str:
        """A string, empty where it is missing.

        Raises:
            Malformed: it is no UTF-8, or longer than any name.
        """
        field = self.one(number, BYTES)
        return "" if field is None else self._text(field)

    def texts(self, number: int) -> list[str]:
        """The strings of a repeated field.

        Raises:
            Malformed: as of :meth:`text`.
        """
        return [self._text(self._of_kind(field, BYTES)) for field in self.all(number)]

    def _text(self, field: Field) -> str:
        if field.stop - field.start > _MOST_TEXT:
            raise Malformed(f"field {field.number} of {self.name} is no name: it is too long")
        try:
            return bytes(self.source[field.start : field.stop]).decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"field {field.number} of {self.name} is no UTF-8 text") from error

    def content(self, number: int) -> memoryview:
        """The bytes of a field, empty where it is missing."""
        field = self.one(number, BYTES)
        if field is None:
            return memoryview(b"")
        return self.source[field.start : field.stop]

    def part(self, number: int, name: str) -> Message:
        """A message inside this one; one without fields where it is missing."""
        field = self.one(number, BYTES)
        if field is None:
            return Message(memoryview(b""), name)
        return Message(self.source, name, field.start, field.stop)

    def parts(self, number: int, name: str) -> list[Message]:
        """The messages of a repeated field."""
        found = []
        for field in self.all(number):
            self._of_kind(field, BYTES)
            found.append(Message(self.source, name, field.start, field.stop))
        return found

    def size(self, number: int) -> int:
        """Bytes of a field that is not read; 0 where it is missing."""
        field = self.one(number, BYTES)
        return 0 if field is None else field.stop - field.start

    def doubles(self, number: int, most: int = _MOST_NUMBERS) -> np.ndarray:
        """A repeated double, f64 [n].

        Raises:
            Malformed: it holds more than ``most`` numbers, or some of another type.
        """
        return np.frombuffer(self._fixed(number, FIXED64, most), "<f8")

    def floats(self, number: int, most: int = _MOST_NUMBERS) -> np.ndarray:
        """A repeated float, f32 [n].

        Raises:
            Malformed: as of :meth:`doubles`.
        """
        return np.frombuffer(self._fixed(number, FIXED32, most), "<f4")

    def _fixed(self, number: int, kind: int, most: int) -> bytearray:
        """The bytes of all numbers of a repeated field, each 4 or 8 of them."""
        pieces = []
        left = most * _FIXED[kind]
        for field in self.all(number):
            if field.kind != BYTES:
                self._of_kind(field, kind)
            size = field.stop - field.start
            left -= size
            if size % _FIXED[kind] or left < 0:
                what = f"field {number} of {self.name} is no list of up to {most} numbers"
                raise Malformed(f"{what} of {_FIXED[kind]} bytes")
            pieces.append(self.source[field.start : field.stop])
        return bytearray().join(pieces)

    def integers(self, number: int, most: int = _MOST_NUMBERS) -> list[int]:
        """A short repeated int32, int64 or enum; a matrix has its own decoder.

        Raises:
            Malformed: as of :meth:`doubles`.
        """
        values: list[int] = []
        for field in self.all(number):
            if field.kind == BYTES:
                values.extend(self._packed(field, most - len(values)))
            else:
                values.append(_signed(self._of_kind(field, VARINT).value))
            if len(values) > most:
                raise Malformed(f"field {number} of {self.name} holds more than {most} numbers")
        return values

    def _packed(self, field: Field, most: int) -> Iterator[int]:
        if field.stop - field.start > most * _LONGEST:
            raise Malformed(f"field {field.number} of {self.name} holds more than {most} numbers")
        content = self.source[field.start : field.stop]
        at = 0
        while at < len(content):
            value, at = self._varint(content, at)
            yield _signed(value)


def _signed(value: int) -> int:
    """The int64 of 64 bits."""
    return value - _WORD if value >> 63 else value
