"""Write scans and their boxes for the detectors of OpenPCDet, in its layout of custom data sets.

python prepare_detection.py configs/pandaset/default.yaml --out data/pandaset_detection
python prepare_detection.py CONFIG --out DIR --classes Vehicle='Car,Pickup Truck,Bus' Pedestrian=Pedestrian

DIR gets points/*.npy (x, y, z, intensity), labels/*.txt (x y z length width height heading name) and
ImageSets/train.txt and val.txt. Intensities are scaled by data.intensity_divisor and data.intensity_offset.

Boxes come from PandaSet's cuboids, or from sequences/NN/boxes/NNNNNN.json in SemanticKITTI's layout. Started again it
goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.engine.run.cli import preparing_parser, read_arguments, run_command
from core.machine import usable_cores


def main() -> None:
    """Read the command line, write scans and boxes, print how many of each class."""
    parser = preparing_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME=SOURCE,SOURCE",
        help="classes to write and what the data set calls them; others are left out (all, spaces as _)",
    )
    parser.add_argument(
        "--min-points", type=int, default=0, help="leave out boxes with fewer points (0)"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train", "val"],
        choices=("train", "val", "test"),
        help="whose scans (train val)",
    )
    args, config = read_arguments(parser)
    workers = usable_cores(most=16) if args.workers is None else max(args.workers, 1)
    from core.data.detection.classes import DetectionSettings, read_classes
    from core.data.detection.write import write_detection
    from core.engine.run.experiment import check_config

    check_config(config)
    classes = None if args.classes is None else read_classes(args.classes)
    settings = DetectionSettings(classes, args.min_points)
    report = write_detection(config, args.out, settings, args.splits, workers)
    sys.stdout.write(f"{report.text()}\nin {args.out}\n")


if __name__ == "__main__":
    run_command(main)
