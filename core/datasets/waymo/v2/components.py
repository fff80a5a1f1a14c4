"""Columns of Waymo's Parquet tables (v2/perception of the official library): the names that are read and written."""

from __future__ import annotations

__all__ = [
    "CAMERA",
    "CAMERA_CALIBRATION",
    "IMAGE",
    "INTRINSICS",
    "KEYS",
    "LASER",
    "LIDAR",
    "LIDAR_CALIBRATION",
    "PIXEL_POSE",
    "SEGMENT",
    "SEGMENTATION",
    "STATISTICS",
    "STATS",
    "TIMESTAMP",
    "VEHICLE_POSE",
]

SEGMENT, TIMESTAMP = "key.segment_context_name", "key.frame_timestamp_micros"
LASER, CAMERA = "key.laser_name", "key.camera_name"
KEYS = {  # of each table, besides the segment
    "lidar": (TIMESTAMP, LASER),
    "lidar_segmentation": (TIMESTAMP, LASER),
    "lidar_calibration": (LASER,),
    "lidar_pose": (TIMESTAMP, LASER),
    "vehicle_pose": (TIMESTAMP,),
    "stats": (TIMESTAMP,),
    "camera_image": (TIMESTAMP, CAMERA),
    "camera_calibration": (CAMERA,),
}
# Range images: of each return, with ``.values`` and ``.shape`` behind it.
LIDAR = ("[LiDARComponent].range_image_return1", "[LiDARComponent].range_image_return2")
SEGMENTATION = (
    "[LiDARSegmentationLabelComponent].range_image_return1",
    "[LiDARSegmentationLabelComponent].range_image_return2",
)
PIXEL_POSE = "[LiDARPoseComponent].range_image_return1"
VEHICLE_POSE = "[VehiclePoseComponent].world_from_vehicle.transform"
LIDAR_CALIBRATION = "[LiDARCalibrationComponent]"
CAMERA_CALIBRATION = "[CameraCalibrationComponent]"
INTRINSICS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
IMAGE = "[CameraImageComponent]"
STATS = "[StatsComponent]"
STATISTICS = ("time_of_day", "location", "weather")
