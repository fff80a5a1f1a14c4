"""What a pre-training with images has learned, to be looked at: the embedding of one scan and its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from core.config import Config
from core.contracts import BatchCameras, Camera
from core.data import collate, make_sample
from core.datasets.base import ScanDataset
from core.distill import method_class
from core.distill.images import ImageTeaching
from core.engine.report.embedding import EmbeddedCamera, EmbeddedScan, unit
from core.engine.report.pictures import encode_png
from core.engine.report.similarity_page import write_similarity_page
from core.engine.report.similarity_picture import chosen_query, colors_picture, query_pictures
from core.engine.run.checkpoint import load_weights
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.score.opened import Opened
from core.errors import UserError
from core.io import write_bytes
from core.labels import LabelSpace
from core.names import SUPERPIXELS

__all__ = ["embed_scan", "open_method", "show_similarity"]

_CELLS = 45_000  # pixels of all cameras whose features are kept
_PICTURE = 640  # px, width of a camera's picture


def show_similarity(
    world: World,
    config: Config,
    checkpoint: Path,
    out: Path,
    *,
    split: str = "val",
    scan: str = "0",
    most_points: int = 40_000,
    error: float = 0.02,
    point: int | None = None,
) -> float:
    """Write a page in which points and pixels are asked for what is like them, and PNGs of its views beside it.

    Args:
        checkpoint: of a pre-training with images: run folder or checkpoint.
        out: the page; pictures are called after it, ``-colors.png``, ``-point.png`` and ``-pixel.png``.
        scan: its token, or its number in the split. most_points: more are thinned out evenly.
        error: of similarities in the page, at most.
        point: number of the point that the pictures ask for, as the page counts; None = one in an image's middle.

    Returns:
        the bound on errors of similarities that holds in the page.

    Raises:
        UserError: the checkpoint is of no such training, or there is no such scan or point.
    """
    opened = Opened.of(world, config, checkpoint)
    scans = opened.context.dataset(split)
    method = open_method(opened, scans.labels)
    embedded = embed_scan(method, opened.context, scans, _index_of(scans, scan), most_points)
    title = f"{opened.found.config.get('distill.name')} on {scans.title}"
    query = chosen_query(embedded, point)
    bound = write_similarity_page(
        out,
        embedded,
        title=title,
        facts=f"{opened.found.path}, {split} split",
        wanted=error,
        query=query,
    )
    if bound > error:
        logger.warning(
            "these features need more values than a page holds: similarities are off by up to {:.3f}",
            bound,
        )
    note = f"{title}, {split}, {embedded.token}"
    pictures = {"colors": colors_picture(embedded, note)} | query_pictures(embedded, query, note)
    for name, picture in pictures.items():
        write_bytes(out.with_name(f"{out.stem}-{name}.png"), encode_png(picture, smallest=False))
    return bound


def _index_of(scans: ScanDataset, scan: str) -> int:
    """Position of a scan by its token, or by its number in the split."""
    if not (scan.isascii() and scan.isdecimal()):
        return scans.index_of(scan)
    index = int(scan)
    if index >= len(scans):
        raise UserError(
            f"the {scans.split} split has {len(scans)} scans, numbered from 0",
            where=f"--scan {scan}",
            cure="Give a smaller number, or a scan's token",
        )
    return index


def open_method(opened: Opened, labels: LabelSpace) -> ImageTeaching:
    """The method that a checkpoint was trained by, with the weights of both networks, on this rank's device.

    Raises:
        UserError: it learned from no images, or the file holds the LiDAR network alone.
    """
    found, context = opened.found, opened.context
    kind = method_class(found.config)
    if not issubclass(kind, ImageTeaching):
        raise UserError(
            "this network was not taught by images without labels, so points and pixels have no embedding in common",
            where=str(found.path),
            cure="Give a run of pretrain.py: slidr, ppkt or scalr",
        )
    if not found.training_only:
        raise UserError(
            "this file holds the LiDAR network alone, without what learned beside it for the images",
            where=str(found.path),
            cure="Give the run folder of the pre-training, or one of its checkpoints",
        )
    found.check_labels(labels)
    settings = found.config.parse(kind.Config, "distill")
    student = context.model(kind.outputs(settings, labels), pretrained=False)
    criterion = context.experiment.criterion_for(labels.num_classes)
    method = kind(settings, student, None, criterion)
    weights = method.joined_state(found.weights, found.training_only)
    load_weights(method, weights, str(found.path))
    return method.to(context.world.device).eval()


@torch.no_grad()
def embed_scan(
    method: ImageTeaching, context: Context, scans: ScanDataset, index: int, most_points: int
) -> EmbeddedScan:
    """The embedding of a scan, one point for each cell where cells have the embedding, and of its images.

    Raises:
        UserError: the scan has no image, or is missing or damaged.
    """
    scan = scans.load(index)
    batch = collate([make_sample(scan, index, context.data)]).to(context.world.device)
    cameras = batch.cameras
    if cameras is None or not len(cameras.images):
        raise UserError(
            f"scan {scans.token(index)} comes without images",
            where="data.images",
            cure="Set data.images and data.eval_images: true, and choose a scan with images",
        )
    feats, rows = method.embeddings(batch)
    chosen = _one_of_each_row(rows, batch.keyframe, most_points)
    features = unit(feats[rows[chosen]].cpu().numpy())
    points = (batch.points["xyz"][chosen] - batch.origins[0]).cpu().numpy()
    step = _grid_step(cameras)
    embedded = []
    for number, camera in enumerate(scan.cameras):
        embedded.append(_camera(method, cameras, number, chosen, camera, step))
    return EmbeddedScan(scans.token(index), points, features, embedded)


def _one_of_each_row(rows: Tensor, keyframe: Tensor, most: int) -> Tensor:
    """Ascending positions of points: the first that has each row of the embedding, evenly thinned out, i64 [N]."""
    usable = (keyframe & (rows >= 0)).cpu().numpy()
    found = rows.cpu().numpy()
    positions = np.flatnonzero(usable)
    first = np.sort(positions[np.unique(found[positions], return_index=True)[1]])
    kept = first[np.unique(np.linspace(0, len(first) - 1, min(most, len(first))).astype(np.int64))]
    return torch.from_numpy(kept).to(rows.device)


def _grid_step(cameras: BatchCameras) -> int:
    """How many pixels apart those are whose features are kept."""
    count, height, width = len(cameras.visible), *cameras.images.shape[3:]
    step = 1
    while count * (height // step) * (width // step) > _CELLS:
        step += 1
    return step


def _camera(
    method: ImageTeaching,
    cameras: BatchCameras,
    number: int,
    chosen: Tensor,
    camera: Camera,
    step: int,
) -> EmbeddedCamera:
    """One camera of a batch of one scan."""
    image = cameras.images[:1, number]
    height, width = image.shape[2:]
    rows, columns = height // step, width // step
    down = (torch.arange(rows, device=image.device) * 2 + 1) * height // (2 * rows)
    across = (torch.arange(columns, device=image.device) * 2 + 1) * width // (2 * columns)
    row, column = (index.flatten() for index in torch.meshgrid(down, across, indexing="ij"))
    features = method.image.at(image, torch.zeros_like(row), column, row)
    labels, superpixels = None, np.zeros((0, features.shape[1]), np.float32)
    if SUPERPIXELS in cameras.planes:
        plane = cameras.planes[SUPERPIXELS][:1, number]
        labels = plane[0, row, column].cpu().numpy().astype(np.int32)
        count = int(plane.max()) + 1
        if count:
            superpixels = unit(method.image.means(image, plane, count).cpu().numpy())
    seen = cameras.visible[number, chosen].nonzero()[:, 0]
    place = (cameras.pixels[number, chosen[seen]] + 1) / 2
    size = place.new_tensor([width, height])
    shares = (place * (size - 1) + 0.5) / size
    return EmbeddedCamera(
        name=camera.name,
        picture=_shown(camera.load()),
        size=(width, height),
        grid=(columns, rows),
        features=unit(features.cpu().numpy()),
        labels=labels,
        superpixels=superpixels,
        seen=seen.cpu().numpy(),
        places=shares.cpu().numpy(),
    )


def _shown(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    height, width = image.shape[:2]
    if width <= _PICTURE:
        return image
    size = (_PICTURE, round(height * _PICTURE / width))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
