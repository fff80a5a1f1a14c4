"""Field numbers of Waymo's messages, as far as they are used (dataset.proto of the perception data, v1.0 to v1.4.3).

Those of predictions are of segmentation_metrics.proto and segmentation_submission.proto.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "CameraCalibrationField",
    "CameraImageField",
    "ContextField",
    "FrameField",
    "LaserCalibrationField",
    "LaserField",
    "RangeImageField",
    "SegmentationFrameField",
    "SegmentationFrameListField",
    "StatsField",
    "SubmissionField",
    "TransformField",
]


class FrameField(IntEnum):
    """Of Frame."""

    CONTEXT = 1
    TIMESTAMP = 2
    POSE = 3
    IMAGES = 4
    LASERS = 5


class ContextField(IntEnum):
    """Of Context."""

    NAME = 1
    CAMERAS = 2
    LASERS = 3
    STATS = 4


class StatsField(IntEnum):
    """Of Context.Stats."""

    TIME_OF_DAY = 2
    LOCATION = 3
    WEATHER = 4


class TransformField(IntEnum):
    """Of Transform."""

    MATRIX = 1


class LaserCalibrationField(IntEnum):
    """Of LaserCalibration."""

    NAME = 1
    INCLINATIONS = 2
    LOWEST = 3
    HIGHEST = 4
    EXTRINSIC = 5


class CameraCalibrationField(IntEnum):
    """Of CameraCalibration."""

    NAME = 1
    INTRINSIC = 2
    EXTRINSIC = 3
    WIDTH = 4
    HEIGHT = 5
    SHUTTER = 6


class CameraImageField(IntEnum):
    """Of CameraImage."""

    NAME = 1
    IMAGE = 2
    POSE = 3


class LaserField(IntEnum):
    """Of Laser."""

    NAME = 1
    RETURN_1 = 2
    RETURN_2 = 3


class RangeImageField(IntEnum):
    """Of RangeImage; each is a compressed matrix."""

    VALUES = 2
    PIXEL_POSE = 4
    LABELS = 6


class SegmentationFrameListField(IntEnum):
    """Of SegmentationFrameList."""

    FRAMES = 1


class SegmentationFrameField(IntEnum):
    """Of SegmentationFrame."""

    LASERS = 1
    CONTEXT = 2
    TIMESTAMP = 3


class SubmissionField(IntEnum):
    """Of SemanticSegmentationSubmission."""

    ACCOUNT_NAME = 1
    UNIQUE_METHOD_NAME = 2
    AUTHORS = 3
    AFFILIATION = 4
    DESCRIPTION = 5
    METHOD_LINK = 6
    SENSOR_TYPE = 7
    PAST_FRAMES = 8
    FUTURE_FRAMES = 9
    RESULTS = 10
