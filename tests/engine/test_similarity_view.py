"""The page and pictures of a tiny pre-training: similarities against float64, clicks in a real browser, refusals."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import Browser, browser
from PIL import Image

from core.config import load_config
from core.data import collate, make_sample
from core.data.superpixels.slic import SlicConfig
from core.data.superpixels.write import write_superpixels
from core.engine.report.color_scale import scale_table
from core.engine.report.embedding import EmbeddedCamera, EmbeddedScan
from core.engine.report.similarity_picture import chosen_query, query_pictures
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.distributed import World
from core.engine.score.opened import Opened
from core.engine.score.similarity import open_method
from core.engine.train.jobs import pretrain
from core.engine.visualise import main
from core.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs/synthetic/slidr"
SMALL = {
    "num_epochs": "1",
    "batch_size": "1",
    "workers_per_gpu": "0",
    "amp.enabled": "false",
    "model.cr": "0.125",
    "scheduler.warmup_steps": "0",
    "data.image_augment.resized_crop.size": "[48, 32]",
    "dataset.partial": "true",
}
REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "nuscenes"
READY = """return new Promise((done) => {
  const look = () => (document.body.dataset.ready ? done(true) : setTimeout(look, 20));
  look();
});"""


@dataclass(frozen=True)
class Reference:
    """Features of the scan that the page shows, f64, made from the checkpoint without the code of the page."""

    points: np.ndarray  # [N, C], of the page's points
    pixels: np.ndarray  # [K, H, W, C]
    labels: np.ndarray  # [K, H, W]

    @cached_property
    def superpixels(self) -> np.ndarray:
        found = []
        for pixels, labels in zip(self.pixels, self.labels):
            for label in range(labels.max() + 1):
                mean = pixels[labels == label].mean(0)
                found.append(mean / np.linalg.norm(mean))
        return np.array(found)


def config_of(root: Path, superpixels: Path):
    options = {"dataset.root": str(root), **SMALL, "dataset.planes.superpixels": str(superpixels)}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return load_config(str(CONFIGS / "minkunet.yaml"), words)


@pytest.fixture(scope="module")
def run(tiny_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training of two steps, and the page of the second scan."""
    folder = tmp_path_factory.mktemp("similarity")
    config = config_of(tiny_nuscenes, folder / "superpixels")
    write_superpixels(config, folder / "superpixels", SlicConfig(segments=12, sigma=1.0))
    pretrain(World(), config, folder / "run")
    main(["similarity", "--checkpoint", str(folder / "run"), "--scan", "1", "--point", "3"])
    return folder / "run"


def page_data(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def coefficients(part: dict) -> np.ndarray:
    low, step = np.array(part["low"]), np.array(part["step"])
    return low + step * array(part["values"], "u1").reshape(-1, len(low))


@pytest.fixture(scope="module")
def page(run: Path) -> dict:
    return page_data(run / "similarity.html")


@pytest.fixture(scope="module")
def reference(run: Path, page: dict) -> Reference:
    config = load_config(str(run / "config.yaml"), [])
    opened = Opened.of(World(), config, run)
    scans = opened.context.dataset("val")
    method = open_method(opened, scans.labels)
    batch = collate([make_sample(scans.load(1), 1, opened.context.data)])
    with torch.no_grad():
        feats, rows = method.embeddings(batch)
        images = batch.cameras.images[0].double()
        network = method.image.double()
        maps = network.decoder(network.encoder((images - network.mean) / network.std))
        raised = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=True)
    seen = (batch.points["xyz"] - batch.origins[0]).numpy()
    number = {tuple(place): i for i, place in enumerate(seen.tolist())}
    shown = array(page["points"], "<f4").reshape(-1, 3).tolist()
    chosen = [number[tuple(place)] for place in shown]
    points = F.normalize(feats[rows[chosen]].double(), dim=1)
    pixels = F.normalize(raised, dim=1).permute(0, 2, 3, 1)
    return Reference(points.numpy(), pixels.numpy(), batch.cameras.planes["superpixels"][0].numpy())


def test_every_similarity_of_the_page_is_the_networks_to_within_the_bound(page, reference):
    points, pixels, superpixels = (coefficients(part) for part in page["features"])
    flat = reference.pixels.reshape(-1, reference.pixels.shape[-1])
    assert len(points) > 200 and len(pixels) == 6 * 32 * 48
    assert page["bound"] <= 0.02
    pairs = [
        (points, pixels, reference.points, flat),
        (points, points, reference.points, reference.points),
        (superpixels, points, reference.superpixels, reference.points),
        (superpixels, pixels, reference.superpixels, flat),
    ]
    for ours, others, exact, exact_others in pairs:
        assert ours.shape[0] == exact.shape[0] and others.shape[0] == exact_others.shape[0]
        off = np.abs(ours @ others.T - exact @ exact_others.T)
        assert off.max() <= page["bound"] + 1e-5  # the network's own sums are f32


def test_points_have_a_cell_each_and_lie_where_the_cameras_see_them(page, reference):
    points = array(page["points"], "<f4").reshape(-1, 3)
    assert len(np.unique(reference.points, axis=0)) > 0.9 * len(points)
    for number, camera in enumerate(page["cameras"]):
        seen, places = array(camera["seen"], "<u4"), array(camera["places"], "<f4").reshape(-1, 2)
        assert len(seen) == len(places) and (seen < len(points)).all()
        assert ((places > 0) & (places < 1)).all()
        labels = array(camera["labels"], "<u2").reshape(32, 48).astype(int)
        labels[labels == 65535] = -1
        assert (labels == reference.labels[number]).all()
        assert camera["superpixels"] == reference.labels[number].max() + 1
        bearing = np.arctan2(points[seen, 1], points[seen, 0])
        order = np.argsort(places[:, 0])
        if len(order) > 20 and np.ptp(bearing) < 2:  # clockwise from left to right
            assert np.corrcoef(np.arange(len(order)), bearing[order])[0, 1] < -0.8


def test_pictures_lie_beside_the_page(run):
    ring = (80, 255, 240)
    for name, ringed in (("colors", False), ("point", True), ("pixel", True)):
        picture = np.asarray(Image.open(run / f"similarity-{name}.png").convert("RGB"))
        assert picture.shape[1] > 1200
        assert (picture == ring).all(2).any() == ringed


def test_nothing_comes_from_outside_and_the_page_is_small(run):
    text = (run / "similarity.html").read_text()
    assert "default-src 'none'" in text and not re.search(r"https?://", text)
    assert len(text) < 2e6


def table(window: Browser) -> dict[str, list[str]]:
    rows = window.run(
        "return [...document.querySelectorAll('#best tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return {row[0]: row[1:] for row in rows}


def near(text: str, value: float, page: dict) -> None:
    assert float(text) == pytest.approx(value, abs=page["bound"] + 6e-4)


def test_in_a_browser_points_pixels_and_superpixels_answer(run, page, reference, tmp_path):
    names = [camera["name"] for camera in page["cameras"]]
    with browser() as window:
        window.open(run / "similarity.html")
        window.run(READY)
        assert window.text("#asked").startswith("Asked: point 3 at ")
        found = table(window)
        similarity = reference.pixels @ reference.points[3]
        for number, name in enumerate(names):
            near(found[name][0], similarity[number].max(), page)
        others = np.delete(reference.points, 3, 0) @ reference.points[3]
        near(found["points"][0], others.max(), page)

        window.click("#camera-2", 0.25, 0.75)
        column, row = map(
            int, re.match(r"Asked: pixel (\d+), (\d+) of", window.text("#asked")).groups()
        )
        assert abs(column - 12) <= 1 and abs(row - 24) <= 1 and names[2] in window.text("#asked")
        assert window.run("return location.hash") == f"#pixel={names[2]},{column},{row}"
        similarity = reference.points @ reference.pixels[2, row, column]
        near(table(window)["points"][0], similarity.max(), page)

        window.open(run / "similarity.html", f"#superpixel={names[1]},2")
        window.run(READY)
        assert window.text("#asked") == f"Asked: superpixel 2 of {names[1]}"
        first = page["cameras"][0]["superpixels"]
        similarity = reference.points @ reference.superpixels[first + 2]
        near(table(window)["points"][0], similarity.max(), page)
        level = float(np.round(np.median(similarity), 2))
        window.run(
            f"const t = document.getElementById('threshold'); t.value = {level}; t.dispatchEvent(new Event('input'))"
        )
        shown = int(table(window)["points"][2].split(" of ")[0])
        bound = page["bound"] + 1e-5
        assert (similarity >= level + bound).sum() <= shown <= (similarity >= level - bound).sum()

        window.click("#camera-0", 0.5, 0.5)
        label = reference.labels[0, 16, 24]
        assert window.text("#asked") == f"Asked: superpixel {label} of {names[0]}"
        window.click("#cloud", 0.5, 0.4)
        assert window.text("#asked").startswith("Asked: point ")
        window.run(
            "const m = document.getElementById('mode'); m.value = 'features'; m.dispatchEvent(new Event('input'))"
        )
        assert window.errors() == []
        window.screenshot(tmp_path / "page.png")
    shades = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(shades, axis=0)) > 500


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real keyframe; set LIDISTILL_REALDATA")
def test_a_real_keyframe(run, tmp_path):
    root = tmp_path / "nuscenes"
    root.mkdir()  # an index is written into it
    for part in REAL.iterdir():
        (root / part.name).symlink_to(part.resolve())
    out = tmp_path / "page.html"
    options = ["--dataset.root", str(root), "--dataset.frames", "{val: [scene-0061]}"]
    shown = ["--points", "3000", "--out", str(out), "--data.planes", "[]"]
    main(["similarity", "--checkpoint", str(run), *options, *shown])
    page = page_data(out)
    assert len(array(page["points"], "<f4")) == 3 * 3000
    assert len(page["cameras"]) == 6 and page["bound"] <= 0.02
    for camera in page["cameras"]:
        assert camera["shown"] == [640, 360]
        assert len(array(camera["seen"], "<u4")) > 150


def test_without_superpixels_clicks_ask_for_pixels(run, tmp_path):
    out = tmp_path / "page.html"
    main(["similarity", "--checkpoint", str(run), "--out", str(out), "--data.planes", "[]"])
    with browser() as window:
        window.open(out, "#superpixel=CAM_FRONT,0")  # there is none: the page's own question
        window.run(READY)
        assert window.text("#asked").startswith("Asked: point ")
        assert window.run("return document.getElementById('kind')") is None
        window.click("#camera-1", 0.5, 0.5)
        assert re.match(r"Asked: pixel 2[345], 1[567] of CAM_", window.text("#asked"))
        assert window.errors() == []


# --- a scan made by hand ----------------------------------------------------------------------------------------------
def two_kinds() -> EmbeddedScan:
    """Points left of the sensor and the left half of the image are of one kind, the others of another."""
    kinds = np.eye(2, dtype=np.float32)
    rng = np.random.default_rng(0)
    points = rng.uniform(-9, 9, (400, 3)).astype(np.float32)
    points[0] = (5, 3, 0)
    right = (points[:, 1] < 0).astype(int)
    across = np.tile(np.arange(8) >= 4, 4).astype(int)
    camera = EmbeddedCamera(
        name="front",
        picture=np.full((32, 64, 3), 90, np.uint8),
        size=(64, 32),
        grid=(8, 4),
        features=kinds[across],
        labels=None,
        superpixels=np.zeros((0, 2), np.float32),
        seen=np.array([0, 1]),
        places=np.array([(0.3, 0.5), (0.9, 0.5)], np.float32),
    )
    return EmbeddedScan("made", points, kinds[right], [camera])


def test_pictures_show_what_is_like_the_query():
    scan = two_kinds()
    query = chosen_query(scan, None)
    assert (query.point, query.camera) == (0, 0)
    pictures = query_pictures(scan, query, "made")
    scale = scale_table()
    for picture in pictures.values():
        cloud = picture[36:756, 12:732]
        bright, dark = ((cloud == scale[k]).all(2) for k in (-1, 0))
        assert bright[:340].any() and not bright[400:].any(), "y > 0 is alike"
        assert dark[400:].any() and not dark[:340].any()
        image = picture[36:756, 744:].astype(int)
        inside = np.argwhere((np.abs(image - (0.35 * 90 + 0.65 * scale[-1])) < 3).all(2))
        outside = np.argwhere((np.abs(image - (0.35 * 90 + 0.65 * scale[0])) < 3).all(2))
        assert len(inside) > 1000 and inside[:, 1].max() < outside[:, 1].min()


def test_cells_of_pixels():
    camera = two_kinds().cameras[0]
    assert camera.cell(0, 0) == 0 and camera.cell(63, 31) == 31
    assert camera.cell(8, 7) == 1 and camera.cell(7, 8) == 8


# --- refusals ---------------------------------------------------------------------------------------------------------
def changed(run: Path, path: Path, **changes) -> Path:
    state = read_checkpoint(run / "model.pt")
    state.update(changes)
    torch.save(state, path)
    return path


def test_what_has_no_embedding_in_common_is_refused(run, tmp_path):
    alone = changed(run, tmp_path / "alone.pt", training_only={})
    with pytest.raises(UserError, match="holds the LiDAR network alone"):
        main(["similarity", "--checkpoint", str(alone)])
    identity = dict(read_checkpoint(run / "model.pt")["identity"])
    tree = {**identity["config"], "distill": {"name": "supervised"}}
    labelled = changed(run, tmp_path / "labelled.pt", identity={**identity, "config": tree})
    with pytest.raises(UserError, match="was not taught by images"):
        main(["similarity", "--checkpoint", str(labelled)])
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--scan", "99"], "numbered from 0"),
        (["--scan", "no_such_token"], "no_such_token"),
        (["--point", "999999"], "no camera sees point 999999"),
        (["--error", "0"], "expected a positive number"),
        (["--data.images", "false"], "images"),
    ],
)
def test_wrong_options_are_told(run, tmp_path, options, told):
    out = tmp_path / "page.html"
    with pytest.raises(UserError, match=told):
        main(["similarity", "--checkpoint", str(run), "--out", str(out), *options])
    assert not out.exists()
