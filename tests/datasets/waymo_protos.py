"""Waymo's messages for the official protobuf library, declared here by number and type: a reference for our own codec.

Source of the numbers: dataset.proto, label.proto and segmentation_submission.proto of the Waymo Open Dataset (proto2).
Enums are declared as int32, which is the same on the wire.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["message"]

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
# message: fields as "number name type"; "*" after the type: repeated, "**": repeated and packed
_MESSAGES = {
    "MatrixShape": "1 dims int32*",
    "MatrixFloat": "1 data float**, 2 shape MatrixShape",
    "MatrixInt32": "1 data int32**, 2 shape MatrixShape",
    "Transform": "1 transform double*",
    "Velocity": "1 v_x float, 2 v_y float, 3 v_z float, 4 w_x double, 5 w_y double, 6 w_z double",
    "RangeImage": "2 range_image_compressed bytes, 3 camera_projection_compressed bytes, "
    "4 range_image_pose_compressed bytes, 5 range_image_flow_compressed bytes, "
    "6 segmentation_label_compressed bytes",
    "Laser": "1 name int32, 2 ri_return1 RangeImage, 3 ri_return2 RangeImage",
    "LaserCalibration": "1 name int32, 2 beam_inclinations double*, 3 beam_inclination_min double, "
    "4 beam_inclination_max double, 5 extrinsic Transform",
    "CameraCalibration": "1 name int32, 2 intrinsic double*, 3 extrinsic Transform, 4 width int32, 5 height int32, "
    "6 rolling_shutter_direction int32",
    "CameraImage": "1 name int32, 2 image bytes, 3 pose Transform, 4 velocity Velocity, 5 pose_timestamp double, "
    "6 shutter double, 7 camera_trigger_time double, 8 camera_readout_done_time double",
    "ObjectCount": "1 type int32, 2 count int32",
    "Stats": "1 laser_object_counts ObjectCount*, 2 time_of_day string, 3 location string, 4 weather string, "
    "5 camera_object_counts ObjectCount*",
    "Context": "1 name string, 2 camera_calibrations CameraCalibration*, 3 laser_calibrations LaserCalibration*, "
    "4 stats Stats",
    "Box": "1 center_x double, 2 center_y double, 3 center_z double, 4 width double, 5 length double, "
    "6 height double, 7 heading double",
    "Label": "1 box Box, 3 type int32, 4 id string",
    "Frame": "1 context Context, 2 timestamp_micros int64, 3 pose Transform, 4 images CameraImage*, 5 lasers Laser*, "
    "6 laser_labels Label*, 8 camera_labels bytes*, 9 projected_lidar_labels bytes*",
    "SegmentationFrame": "1 segmentation_labels Laser, 2 context_name string, 3 frame_timestamp_micros int64",
    "SegmentationFrameList": "1 frames SegmentationFrame*",
    "SemanticSegmentationSubmission": "1 account_name string, 2 unique_method_name string, 3 authors string*, "
    "4 affiliation string, 5 description string, 6 method_link string, 7 sensor_type int32, "
    "8 number_past_frames_exclude_current int32, 9 number_future_frames_exclude_current int32, "
    "10 inference_results SegmentationFrameList",
}


def message(name: str) -> Any:
    """The official library's class of a message."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"waymo.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="waymo.proto", package="waymo", syntax="proto2")
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for line in fields.split(", "):
            _declare(declared, *line.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _declare(declared: Any, number: str, name: str, kind: str) -> None:
    plain = kind.rstrip("*")
    label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
    field = declared.field.add(name=name, number=int(number), label=label)
    field.type = _TYPES.get(plain, _Field.TYPE_MESSAGE)
    if plain not in _TYPES:
        field.type_name = f".waymo.{plain}"
    field.options.packed = kind.endswith("**")
