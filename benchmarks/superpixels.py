"""Superpixels of this project beside scikit-image's: time per image, and how alike they are.

    python benchmarks/superpixels.py IMAGE [IMAGE ...] [--segments 150]

Needs scikit-image, which the project does without; says so where it is missing. From 0.19 on it stretches the values of
each image first, which ``rescale`` does here; 0.18 does not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from core.data.superpixels.slic import SlicConfig, slic
from core.datasets.images import read_image


def main() -> None:
    """Compare on each image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--segments", type=int, default=150)
    args = parser.parse_args()
    try:
        import skimage
        from skimage.segmentation import slic as theirs
    except ImportError:
        print("scikit-image is not installed: nothing to compare with")
        return
    version = tuple(int(part) for part in skimage.__version__.split(".")[:2])
    config = SlicConfig(segments=args.segments, rescale=version >= (0, 19))
    options = {"n_segments": args.segments, "compactness": 6, "sigma": 3.0, "start_label": 0}
    for path in args.images:
        image = read_image(path)
        began = time.perf_counter()
        own = slic(image, config)
        between = time.perf_counter()
        other = theirs(image, **options)
        ended = time.perf_counter()
        print(
            f"{path.name}: {between - began:.2f} s, scikit-image {skimage.__version__} {ended - between:.2f} s; "
            f"{own.max() + 1} and {other.max() + 1} superpixels, {100 * agreement(own, other):.2f} % of pixels alike"
        )


def agreement(own: np.ndarray, other: np.ndarray) -> float:
    """Share of pixels whose superpixel is the one of the other division that it overlaps most."""
    pairs = own.astype(np.int64) * (int(other.max()) + 1) + other
    counts = np.bincount(pairs.ravel(), minlength=(own.max() + 1) * (other.max() + 1))
    return float(counts.reshape(own.max() + 1, -1).max(1).sum() / own.size)


if __name__ == "__main__":
    main()
