"""Divide every camera image into superpixels, for SLidR (dataset.planes.superpixels).

python prepare_superpixels.py configs/nuscenes/default.yaml --out data/nuscenes/superpixels_slic

One PNG of 16 bits per image, <token of the scan>/<camera>.png. Masks of another segmenter serve as well, as files of
the same names. Started again it goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.config import Config
from core.engine.run.cli import preparing_parser, read_arguments, run_command
from core.machine import usable_cores


def main() -> None:
    """Read the command line, write the superpixels, print how many there are."""
    parser = preparing_parser(__doc__)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (dataset.planes.superpixels of CONFIG)"
    )
    parser.add_argument("--segments", type=int, help="superpixels per image, at most (150)")
    parser.add_argument("--compactness", type=float, help="weight of place against colour (6)")
    parser.add_argument("--sigma", type=float, help="px, Gaussian that smooths first (3)")
    parser.add_argument(
        "--rescale",
        action="store_true",
        default=None,
        help="stretch the values of each image first, as scikit-image does from 0.19 on",
    )
    parser.add_argument(
        "--objects",
        action="store_true",
        help="merge superpixels beside each other that lie on one object of the scan (an experiment)",
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], help="whose images (train val)"
    )
    args, config = read_arguments(parser)
    workers = usable_cores(most=64) if args.workers is None else max(args.workers, 1)
    from core.data.superpixels.objects import ObjectConfig
    from core.data.superpixels.slic import SlicConfig
    from core.data.superpixels.write import default_folder, write_superpixels
    from core.engine.run.experiment import check_config

    check_config(config)
    keys = ("segments", "compactness", "sigma", "rescale")
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    settings = Config(tree={"slic": given}, source="command line").parse(SlicConfig, "slic")
    out = default_folder(config) if args.out is None else args.out
    objects = ObjectConfig() if args.objects else None
    report = write_superpixels(config, out, settings, args.splits, workers, objects)
    sys.stdout.write(f"{report.text()}\nin {out}\n")


if __name__ == "__main__":
    run_command(main)
