"""Superpixels of this project beside scikit-image's: processor time, how alike they are, how true to labelled segments.

    python benchmarks/superpixels.py IMAGE [IMAGE ...] [--segments 150] [--json FILE]
    python benchmarks/superpixels.py frame.jpg --truth frame_labels.png

Needs scikit-image, which the project does without; says so where it is missing. From 0.19 on it stretches the values of
each image first, which ``rescale`` does here; 0.18 does not. Each divides an image once to warm up, and then by turns
on one thread; the median counts. How alike the divisions are is asked without the stretching: scikit-image is given
Lab, and a compactness that undoes its stretching of that. Its borders then count as the true ones.

With ``--truth``, an image of class ids for each image: boundary recall, the share of pixels at borders of true segments
that have a superpixel's border within 2 px (Achanta et al., TPAMI 2012), and undersegmentation error, how much of
superpixels reaches into other segments (Neubert and Protzel, 2012), by the smaller of the two parts.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks.timing import write_measurement
from core.data.superpixels.slic import SlicConfig, slic
from core.datasets.images import read_image
from core.engine.run.cli import run_command

Divide = Callable[..., np.ndarray]  # of an image u8 [H, W, 3]
_NEAR = 2  # px


def boundary_recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of true border pixels near a border that was found; both i64 [H, W]."""
    wanted = borders(truth)
    size = 2 * _NEAR + 1
    near = ndimage.binary_dilation(borders(found), np.ones((size, size), bool))
    return float(near[wanted].mean())


def borders(segments: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour is of another segment, bool [H, W]."""
    edge = np.zeros(segments.shape, bool)
    edge[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    edge[:-1] |= segments[:-1] != segments[1:]
    return edge


def undersegmentation(found: np.ndarray, truth: np.ndarray) -> float:
    """Sum over pairs of a superpixel and a true segment that meet, of its smaller part in or out, per pixel."""
    shared = overlaps(found, truth)
    sizes = shared.sum(1, keepdims=True)
    return float(np.minimum(shared, sizes - shared).sum() / found.size)


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels that each segment of one division shares with each of the other, i64 [n, m]."""
    columns = int(other.max()) + 1
    pairs = one.astype(np.int64) * columns + other
    rows = int(one.max()) + 1
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def agreement(own: np.ndarray, other: np.ndarray) -> float:
    """Share of pixels whose superpixel is the one of the other division that it overlaps most."""
    return float(overlaps(own, other).max(1).sum() / own.size)


def timed(dividers: dict[str, Divide], image: np.ndarray, repeats: int) -> dict[str, float]:
    """Seconds of processor time of each, the median of some repeats by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in dividers}
    for name in list(dividers) * (repeats + 1):
        began = time.process_time()
        dividers[name](image)
        seconds[name].append(time.process_time() - began)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def likeness(image: np.ndarray, segments: int, theirs: Divide, rgb2lab: Divide) -> dict[str, float]:
    """How alike the divisions of one Lab are, in percent: superpixels, borders, and what reaches into others.

    Args:
        theirs: takes what scikit-image's ``slic`` takes.
    """
    colours = rgb2lab(image)
    options = {"n_segments": segments, "sigma": 3.0, "start_label": 0, "convert2lab": False}
    other = theirs(colours, compactness=6 / np.ptp(colours), **options)
    own = slic(image, SlicConfig(segments=segments))
    return {
        "alike": 100 * agreement(own, other),
        "borders_alike": 100 * boundary_recall(own, other),
        "reaching_over": 100 * undersegmentation(own, other),
    }


def segments_of(path: Path) -> np.ndarray:
    """Connected segments of the classes of a label image, i64 [H, W]."""
    classes = np.asarray(Image.open(path)).astype(np.int64)
    segments = np.zeros(classes.shape, np.int64)
    count = 0
    for value in np.unique(classes):
        parts, more = ndimage.label(classes == value)
        segments[parts > 0] = parts[parts > 0] + count
        count += more
    return segments


def measure(
    image: np.ndarray, dividers: dict[str, Divide], truth: Path | None, repeats: int
) -> dict[str, dict]:
    """Numbers of each way to divide an image."""
    measured = {}
    for name, seconds in timed(dividers, image, repeats).items():
        found = dividers[name](image)
        count = len(np.unique(found))
        numbers = {"seconds": seconds, "superpixels": count}
        numbers["per_cpu_hour"] = round(count * 3600 / seconds)
        if truth is not None:
            segments = segments_of(truth)
            numbers["boundary_recall"] = 100 * boundary_recall(found, segments)
            numbers["undersegmentation"] = 100 * undersegmentation(found, segments)
        measured[name] = numbers
    return measured


def main() -> None:
    """Compare on each image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--truth", nargs="+", type=Path, default=[], help="labels of each image")
    parser.add_argument("--segments", type=int, default=150, help="per image (150)")
    parser.add_argument("--repeats", type=int, default=5, help="of each, by turns (5)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    if args.truth and len(args.truth) != len(args.images):
        parser.error(f"{len(args.truth)} label images for {len(args.images)} images")
    try:
        import skimage
        from skimage.color import rgb2lab
        from skimage.segmentation import slic as theirs
    except ImportError:
        print("scikit-image is not installed: nothing to compare with")
        return
    version = tuple(int(part) for part in skimage.__version__.split(".")[:2])
    config = SlicConfig(segments=args.segments, rescale=version >= (0, 19))
    options = {"n_segments": args.segments, "compactness": 6, "sigma": 3.0, "start_label": 0}
    dividers: dict[str, Divide] = {
        "ours": lambda image: slic(image, config),
        "scikit-image": lambda image: theirs(image, **options),
    }
    found = {"scikit_image_version": skimage.__version__}
    for place, path in enumerate(args.images):
        truth = args.truth[place] if args.truth else None
        image = read_image(path)
        numbers = measure(image, dividers, truth, args.repeats)
        numbers["ours"] |= likeness(image, args.segments, theirs, rgb2lab)
        found[path.stem] = numbers
        for name, values in numbers.items():
            told = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"{path.name}, {name}: {told}")
    if args.json:
        write_measurement(args.json, found)


if __name__ == "__main__":
    run_command(main)
