"""``python -m core.data.corruptions CONFIG --out DIR``: write a split's scans under each corruption of a benchmark.

Started again it goes on where it stopped. ``evaluate.py --robustness`` makes the same points without the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.config import load_config
from core.data.corruptions.profiles import PROFILES, chosen
from core.data.corruptions.write import write_corrupted
from core.datasets import build_dataset
from core.datasets.base import SPLITS
from core.errors import EXIT_USER_ERROR, UserError, counted
from core.machine import usable_cores

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: the configuration, a name or the data is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.data.corruptions",
        description="Write a split's scans, corrupted, in SemanticKITTI's layout: DIR/<corruption>/sequences/...",
        epilog="Any key of the configuration can be overridden: --dataset.root FOLDER.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML file of a job, or configs/<dataset>/default.yaml")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="an old one is completed"
    )
    parser.add_argument(
        "--profile", default="semantickitti-c", choices=tuple(PROFILES), help="which benchmark's"
    )
    parser.add_argument(
        "--kinds", nargs="+", metavar="NAME", help="types (fog) or single ones (fog_heavy); all"
    )
    parser.add_argument("--split", default="val", choices=SPLITS, help="default: val")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument(
        "--keep-labels", action="store_true", help="points of local distortion keep their class"
    )
    parser.add_argument("--workers", type=int, help="processes (one per processor)")
    args, overrides = parser.parse_known_args(argv)
    corruptions = chosen(args.profile, args.kinds, keep_labels=args.keep_labels)
    dataset = build_dataset(load_config(args.config, overrides), args.split)
    workers = usable_cores(most=16) if args.workers is None else max(args.workers, 1)
    written = write_corrupted(
        dataset,
        corruptions,
        args.out,
        workers=workers,
        seed=args.seed,
        keep_labels=args.keep_labels,
    )
    total = len(dataset) * len(corruptions)
    there = f" ({total - written} were there before)" if written < total else ""
    done = f"{counted(written, 'corrupted scan')} written{there}"
    sys.stdout.write(f"{done}, {counted(len(corruptions), 'corruption')}, in {args.out}\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        raise SystemExit(EXIT_USER_ERROR) from None
