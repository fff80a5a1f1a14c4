"""What one floor hands to the next: scan -> sample -> batch (or a pair of views) -> output.

Units are metres, seconds, radians and pixels; the LiDAR frame has x forward (or the data set's own heading), z up.
Label 0 is "ignore" in train ids everywhere. ``N`` points, ``V`` cells, ``C`` channels, ``K`` cameras, ``B`` samples;
``SN`` and ``SV`` are the points and cells of all samples of a batch together.
"""

from core.contracts.batch import Batch, BatchCameras, Pair
from core.contracts.cells import Cells, Grouping, Partition
from core.contracts.output import Output, Stage
from core.contracts.points import Points
from core.contracts.sample import Sample, SampleCameras
from core.contracts.scan import Camera, Scan, Sensor

__all__ = [
    "IGNORE",
    "Batch",
    "BatchCameras",
    "Camera",
    "Cells",
    "Grouping",
    "Output",
    "Pair",
    "Partition",
    "Points",
    "Sample",
    "SampleCameras",
    "Scan",
    "Sensor",
    "Stage",
]

IGNORE = 0  # train id of "ignore"
