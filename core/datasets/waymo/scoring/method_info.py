"""What a submission to Waymo's benchmark says of its method: ``submission.json`` for people, fields for the server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from core.datasets.waymo.wire.fields import SubmissionField
from core.datasets.waymo.wire.message import Malformed, Message
from core.datasets.waymo.wire.writer import Writer
from core.decode import read_json

__all__ = ["INFO", "MethodInfo", "SensorType"]

INFO = "submission.json"
SensorType = Literal[  # SemanticSegmentationSubmission.SensorType, numbered from 1
    "LIDAR_ALL", "LIDAR_TOP", "CAMERA_ALL", "CAMERA_LIDAR_TOP", "CAMERA_LIDAR_ALL"
]
_SENSOR_TYPES: tuple[SensorType, ...] = get_args(SensorType)
_TEXTS = {
    "account_name": SubmissionField.ACCOUNT_NAME,
    "unique_method_name": SubmissionField.UNIQUE_METHOD_NAME,
    "affiliation": SubmissionField.AFFILIATION,
    "description": SubmissionField.DESCRIPTION,
    "method_link": SubmissionField.METHOD_LINK,
}
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
        texts = [(number, getattr(self, name)) for name, number in _TEXTS.items()]
        texts += [(SubmissionField.AUTHORS, author) for author in self.authors]
        for number, text in sorted(texts, key=itemgetter(0)):
            message.text(number, text)
        sensors = 1 + _SENSOR_TYPES.index(self.sensor_type)
        message.integer(SubmissionField.SENSOR_TYPE, sensors)
        message.integer(SubmissionField.PAST_FRAMES, self.past_frames)
        message.integer(SubmissionField.FUTURE_FRAMES, self.future_frames)

    @classmethod
    def of_message(cls, message: Message) -> MethodInfo:
        """Read the fields of a SemanticSegmentationSubmission; its frames are not looked at.

        Raises:
            Malformed: a field is of another type or unknown.
        """
        other = {field.number for field in message} - set(SubmissionField)
        if other:
            raise Malformed(f"a submission has no field {min(other)}")
        number = message.integer(SubmissionField.SENSOR_TYPE)
        if not 1 <= number <= len(_SENSOR_TYPES):
            raise Malformed(f"sensor_type is {number}; expected 1 to {len(_SENSOR_TYPES)}")
        past = message.integer(SubmissionField.PAST_FRAMES)
        future = message.integer(SubmissionField.FUTURE_FRAMES)
        if min(past, future) < 0:
            raise Malformed(f"{past} past and {future} future frames")
        return cls(
            authors=tuple(message.texts(SubmissionField.AUTHORS)),
            sensor_type=_SENSOR_TYPES[number - 1],
            past_frames=past,
            future_frames=future,
            **{name: message.text(number) for name, number in _TEXTS.items()},
        )
