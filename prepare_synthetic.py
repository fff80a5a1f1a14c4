"""Write a synthetic driving world in the layout of nuScenes, SemanticKITTI or Waymo.

python prepare_synthetic.py data/synthetic
python prepare_synthetic.py data/synthetic-kitti --format semantickitti --keyframes 30
python prepare_synthetic.py data/synthetic-waymo --format waymo-v1
python prepare_synthetic.py data/synthetic/towns --scenes 30 --val-scenes 6 --image-scale 0
"""

from __future__ import annotations

import argparse
import sys

from core.errors import EXIT_USER_ERROR, UserError
from core.names import WORLDS


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", help="folder to write into")
    parser.add_argument("--format", default="nuscenes", choices=list(WORLDS))
    parser.add_argument(
        "--scenes",
        type=int,
        default=6,
        help="scenes, sequences or segments, each a town of its own (6)",
    )
    parser.add_argument(
        "--val-scenes", type=int, default=2, help="how many of them are for validation (2)"
    )
    parser.add_argument("--keyframes", type=int, default=10, help="labelled frames per scene (10)")
    parser.add_argument(
        "--sweeps",
        type=int,
        default=2,
        help="frames without labels between two with (2); SemanticKITTI has none",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--image-scale",
        type=float,
        default=0.25,
        help="of the real cameras' resolution (0.25); 0 writes no images",
    )
    parser.add_argument(
        "--lidar-scale", type=float, default=1.0, help="of the real scanner's density (1)"
    )
    parser.add_argument("--workers", type=int, default=None, help="processes (one per processor)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args()
    from core.datasets.synthetic import WorldSpec, generate

    try:
        spec = WorldSpec(
            format=args.format,
            seed=args.seed,
            scenes=args.scenes,
            val_scenes=args.val_scenes,
            keyframes=args.keyframes,
            sweeps_per_keyframe=args.sweeps,
            image_scale=args.image_scale,
            lidar_scale=args.lidar_scale,
            **({} if args.workers is None else {"workers": args.workers}),
        )
        generate(args.out, spec)
    except UserError as error:
        if args.debug:
            raise
        sys.stderr.write(f"{error}\n")
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
