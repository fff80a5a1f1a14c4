"""What a submission to Waymo's benchmark says of its method: ``submission.json`` for people, fields for the server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from core.datasets.waymo.wire import Malformed, Message
from core.datasets.waymo.wire_writer import Writer
from core.decode import read_json

__all__ = ["INFO", "MethodInfo", "SensorType"]

INFO = "submission.json"
SensorType = Literal[  # SemanticSegmentationSubmission.SensorType, numbered from 1
    "LIDAR_ALL", "LIDAR_TOP", "CAMERA_ALL", "CAMERA_LIDAR_TOP", "CAMERA_LIDAR_ALL"
]
_SENSOR_TYPES: tuple[SensorType, ...] = get_args(SensorType)
# Fields of SemanticSegmentationSubmission.
_TEXTS = {
    "account_name": 1,
    "unique_method_name": 2,
    "affiliation": 4,
    "description": 5,
    "method_link": 6,
}
_AUTHORS, _SENSOR_TYPE, _PAST, _FUTURE = 3, 7, 8, 9
_FIELDS = frozenset({*_TEXTS.values(), _AUTHORS, _SENSOR_TYPE, _PAST, _FUTURE})
_WANTED = ("account_name", "unique_method_name", "authors")
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Text = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True)
class MethodInfo:
    """What the server wants to know of a method.

    Attributes:
        account_name: e-mail address of the account that uploads. unique_method_name: as the leaderboard shows it.
        authors: names. affiliation, description, method_link: free text.
        sensor_type: what the network sees. past_frames, future_frames: that it sees besides the frame's own.
    """

    account_name: Text
    unique_method_name: Text
    authors: tuple[Text, ...]
    affiliation: Text
    description: Text
    method_link: Text
    sensor_type: SensorType
    past_frames: Count
    future_frames: Count

    @classmethod
    def read(cls, path: Path) -> MethodInfo:
        """Read ``submission.json``.

        Raises:
            UserError: a key is missing or of another type.
        """
        return read_json(path, cls, cure="Correct it, or delete it to have a new one written")

    @classmethod
    def blank(cls, uses_camera: bool, sweeps: tuple[int, int]) -> MethodInfo:
        """What is known of a network; a person fills in the rest."""
        sensors: SensorType = "CAMERA_LIDAR_TOP" if uses_camera else "LIDAR_TOP"
        return cls("", "", (), "", "", "", sensors, *sweeps)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"authors": list(self.authors)}

    @property
    def lacking(self) -> list[str]:
        """Names of the fields that the server wants and that are empty."""
        return [name for name in _WANTED if not getattr(self, name)]

    def write(self, message: Writer) -> None:
        """Append the fields, in the order of their numbers."""
        fields: dict[int, str | tuple[str, ...] | int] = {
            number: getattr(self, name) for name, number in _TEXTS.items()
        }
        fields[_AUTHORS] = self.authors
        fields[_SENSOR_TYPE] = 1 + _SENSOR_TYPES.index(self.sensor_type)
        fields[_PAST], fields[_FUTURE] = self.past_frames, self.future_frames
        for number in sorted(fields):
            value = fields[number]
            if isinstance(value, int):
                message.integer(number, value)
                continue
            for text in (value,) if isinstance(value, str) else value:
                message.text(number, text)

    @classmethod
    def of_message(cls, message: Message, results: int) -> MethodInfo:
        """Read the fields of a SemanticSegmentationSubmission.

        Args:
            results: number of the field of the frames, which are not looked at.

        Raises:
            Malformed: a field is of another type or unknown.
        """
        other = {field.number for field in message} - _FIELDS - {results}
        if other:
            raise Malformed(f"a submission has no field {min(other)}")
        number = message.integer(_SENSOR_TYPE)
        if not 1 <= number <= len(_SENSOR_TYPES):
            raise Malformed(f"sensor_type is {number}; expected 1 to {len(_SENSOR_TYPES)}")
        past, future = message.integer(_PAST), message.integer(_FUTURE)
        if min(past, future) < 0:
            raise Malformed(f"{past} past and {future} future frames")
        return cls(
            authors=tuple(message.texts(_AUTHORS)),
            sensor_type=_SENSOR_TYPES[number - 1],
            past_frames=past,
            future_frames=future,
            **{name: message.text(number) for name, number in _TEXTS.items()},
        )
