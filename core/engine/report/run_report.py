"""From an evaluation to ``report.html``: which scans are drawn, and what stands beside them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from core.config import Config, dump_yaml
from core.contracts import IGNORE, Batch
from core.datasets.base import ScanDataset
from core.engine.report.page import ScenePicture, write_report
from core.engine.report.pictures import birds_eye, encode_png, error_colors, legible, side_by_side
from core.engine.run.run_dir import RunDir
from core.errors import UserError
from core.io import write_bytes
from core.metrics import EvaluationResult

__all__ = ["PictureCollector", "preview", "report_run"]


class PictureCollector:
    """Keeps the predictions of a few scans, evenly spread over the split, for the report.

    Args:
        dataset: the split being scored. count: scans to keep.
    """

    def __init__(self, dataset: ScanDataset, count: int) -> None:
        self.dataset = dataset
        self.wanted = (
            set(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist())
            if count
            else set()
        )
        self.scenes: list[ScenePicture] = []

    def __call__(self, batch: Batch, predicted: Tensor) -> None:
        """Look at one scored batch; predicted is i64 [SN]."""
        offsets = batch.point_offsets.tolist()
        for i, index in enumerate(batch.indices):
            if index in self.wanted and not batch.padded[i]:
                rows = slice(offsets[i], offsets[i + 1])
                self.scenes.append(
                    self._draw(
                        index, predicted[rows].cpu().numpy(), batch.keyframe[rows].cpu().numpy()
                    )
                )

    def _draw(self, index: int, predicted: np.ndarray, keyframe: np.ndarray) -> ScenePicture:
        try:
            scan = self.dataset.load(index, cameras=True)
        except (
            UserError
        ):  # a LiDAR-only copy of the data set has no images; the bird's-eye views still come
            scan = self.dataset.load(index, cameras=False)
        own = scan.keyframe  # a view without sweeps has these points alone
        points = scan.xyz[own]
        cameras = [(c.name, c.load(), *c.project(points)[::2]) for c in scan.cameras]
        truth = np.zeros(len(points), np.uint8) if scan.labels is None else scan.labels[own]
        return ScenePicture(
            scan.token, points, truth, predicted[keyframe].astype(np.uint8), cameras
        )


def report_run(
    run_path: Path,
    result: EvaluationResult,
    pictures: PictureCollector,
    config: Config,
    others: Sequence[tuple[str, EvaluationResult]] = (),
) -> Path:
    """Write ``report.html`` of a run folder, with the scores of other networks beside; returns its path."""
    if pictures.scenes:
        write_bytes(
            run_path / "preview.png",
            encode_png(preview(pictures.scenes[0], pictures.dataset)),
        )
    return write_report(
        run_path,
        result,
        pictures.scenes,
        title=f"{config.tree['model'].get('name')} on {pictures.dataset.title}",
        command=shlex.join(["python", *sys.argv]),
        config_text=dump_yaml(config.tree),
        history=RunDir(run_path).history(),
        colors=pictures.dataset.labels.colors,
        extra_results=others,
    )


def preview(scene: ScenePicture, dataset: ScanDataset) -> np.ndarray:
    """Truth, prediction and errors of one scan from above, with the classes it holds; u8 [H, W, 3]."""
    labels = dataset.labels
    palette = legible(labels.colors)
    shades = {"truth": palette[scene.truth], "prediction": palette[scene.prediction]}
    shades["errors"] = error_colors(scene.truth, scene.prediction)
    panels = [
        (name, birds_eye(scene.points, colors, extent=35.0, size=420))
        for name, colors in shades.items()
    ]
    held = np.union1d(scene.truth, scene.prediction)
    classes = [(labels.classes[i], palette[i]) for i in held[held != IGNORE]]
    return side_by_side(panels, classes, f"{dataset.title} {dataset.split}, {scene.token}")
