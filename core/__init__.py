"""LiDistill: LiDAR semantic segmentation that learns from cameras and from bigger teachers."""
