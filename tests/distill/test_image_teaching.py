"""SLidR, PPKT and ScaLR: pairs through augmentation, means, losses in closed form, and what never learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_fakes import forward_camera, make_scan
from torch import Tensor, nn

from core.contracts import Batch, Camera, Output, Scan
from core.data import DataConfig, collate, make_sample
from core.distill.images import ImageTeaching, Pairs, info_nce
from core.distill.ppkt import PPKT
from core.distill.scalr import ScaLR
from core.distill.slidr import SLidR, pooled
from core.errors import UserError
from core.labels import NUSCENES
from core.losses import CrossEntropyLovasz

SIZE = (64, 48)
IMAGE = {"encoder": "resnet18"}
PLAIN = {**IMAGE, "dilated": False}


class Places:
    """An image whose red and green are each pixel's column and row."""

    def __call__(self) -> np.ndarray:
        row, column = np.mgrid[: SIZE[1], : SIZE[0]]
        return np.stack([column * 4, row * 5, 0 * row], -1).astype(np.uint8)


class Squares:
    """Superpixels of 8 x 8 px; those of the last row belong to nothing."""

    def __call__(self) -> np.ndarray:
        row, column = np.mgrid[: SIZE[1], : SIZE[0]] // 8
        labels = row * 8 + column
        labels[row == 5] = -1
        return labels.astype(np.int32)


def camera() -> Camera:
    seen = forward_camera(SIZE, focal=40.0, load=Places())
    return replace(seen, planes={"superpixels": Squares()})


def scan(seed: int = 0, points: int = 400) -> Scan:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((2, -4, -3), (12, 4, 3), (points, 3))
    return make_scan(xyz, cameras=(camera(), camera()), token=f"s{seed}")


def data(**keys: object) -> DataConfig:
    plain = {"voxel_size": 0.5, "augment": None, "images": True, "planes": ["superpixels"]}
    return DataConfig.model_validate(plain | keys)


def batch_of(config: DataConfig | None = None, scans: int = 2, seed: int | None = None) -> Batch:
    config = config or data()
    samples = []
    for i in range(scans):
        rng = None if seed is None else np.random.default_rng([seed, i])
        samples.append(make_sample(scan(i), i, config, training=seed is not None, rng=rng))
    return collate(samples)


class Network(nn.Module):
    """An embedding of each cell's position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, batch: Batch) -> Output:
        return Output(self.layer(batch.feats))


def method_of(kind: type[ImageTeaching], **keys: object) -> ImageTeaching:
    torch.manual_seed(0)
    config = kind.Config(**keys)
    network = Network(kind.outputs(config, NUSCENES))
    method = kind(config, network, None, CrossEntropyLovasz())
    method.freeze()
    return method.train()


METHODS = {
    "slidr": (SLidR, {"name": "slidr", "width": 8, "image": PLAIN}),
    "ppkt": (PPKT, {"name": "ppkt", "width": 8, "image": IMAGE, "pairs": 100}),
    "scalr": (ScaLR, {"name": "scalr", "image": IMAGE}),
}


# --- pairs ------------------------------------------------------------------------------------------------------------
def test_a_known_point_falls_on_its_pixel() -> None:
    """Principal point (31.5, 23.5), focal length 40: (10, -2, 1) is seen at (39.5, 19.5) and rounds to even."""
    points = np.array([[10, -2.1, 1.1], [10, 0, 9], [-5, 0, 0], [10, 2.1, -1.1]])
    config = data(voxel_size=0.5)
    batch = collate([make_sample(make_scan(points, cameras=(camera(),)), 0, config)])
    pairs = Pairs.of(batch)
    assert pairs.point.tolist() == [0, 3]
    assert pairs.column.tolist() == [round(31.5 + 8.4), round(31.5 - 8.4)]
    assert pairs.row.tolist() == [round(23.5 - 4.4), round(23.5 + 4.4)]
    assert pairs.image.tolist() == [0, 0]


AUGMENT = {
    "augment": {"scale": None, "translate_std": None, "drop_box": 0.9, "drop_box_sight": 0},
    "image_augment": {
        "resized_crop": {"size": [40, 30], "points": 20, "ratio": [1.0, 1.6]},
        "flip": 0.5,
        "jitter": None,
    },
}


@pytest.mark.parametrize("seed", range(6))
def test_pairs_survive_crop_flip_and_dropped_boxes(seed: int) -> None:
    """The image tells where each pixel was: what a pair reads is where its point was seen, to about a pixel."""
    batch = batch_of(data(**AUGMENT), seed=seed)
    pairs = Pairs.of(batch)
    assert len(pairs) > 50
    images = batch.cameras.images.flatten(0, 1)
    read = images[pairs.image, :, pairs.row, pairs.column] * 255
    place = torch.stack([read[:, 0] / 4, read[:, 1] / 5], 1).double()
    bounds = batch.point_offsets.tolist()
    for i in range(2):
        recorded = scan(i)
        uv, _, visible = recorded.cameras[0].project(recorded.xyz)
        own = (pairs.point >= bounds[i]) & (pairs.point < bounds[i + 1])
        points = (pairs.point[own] - bounds[i]).numpy()
        assert visible[points].all()
        inside = batch.cells.of_point[bounds[i] : bounds[i + 1]] >= 0
        assert inside[points].all()
        away = np.abs(uv[points] - place[own].numpy())
        scale = np.array([64 / 40, 48 / 30])
        assert (away <= 0.5 * scale + 1.1).all(), away.max(0)
        planes = batch.cameras.planes["superpixels"].flatten(0, 1)
        labels = planes[pairs.image[own], pairs.row[own], pairs.column[own]].numpy()
        squares = Squares()()
        near = [
            squares[max(int(v) - 2, 0) : int(v) + 4, max(int(u) - 2, 0) : int(u) + 4]
            for u, v in uv[points]
        ]
        assert all(label in part for label, part in zip(labels, near))


def test_boxes_drop_points_and_are_undone_where_a_camera_would_see_too_few() -> None:
    augment = {**AUGMENT["augment"], "flip": False, "rotate": None}
    dropped = kept = 0
    for seed in range(12):
        free = batch_of(data(augment=augment), seed=seed)
        dropped += int((free.cells.of_point < 0).sum())
        bound = batch_of(data(augment={**augment, "drop_box_sight": 400}), seed=seed)
        kept += int((bound.cells.of_point < 0).sum())
        for i in range(2):
            own = slice(*free.point_offsets[i : i + 2].tolist())
            gone = free.points["xyz"][own][free.cells.of_point[own] < 0]
            left = free.points["xyz"][own][free.cells.of_point[own] >= 0]
            if len(gone) > 1:  # no point that stayed lies within the box that the others span
                low, high = gone.amin(0), gone.amax(0)
                assert not ((left > low) & (left < high)).all(1).any()
    assert dropped > 200 and kept == 0


def test_evaluation_sees_the_whole_image_in_the_size_of_the_crop() -> None:
    batch = batch_of(data(image_augment=AUGMENT["image_augment"]))
    assert batch.cameras.images.shape[-2:] == (30, 40)
    assert batch.cameras.planes["superpixels"].shape[-2:] == (30, 40)
    assert Pairs.of(batch).column.max() > 30


def test_images_without_a_point_in_sight_are_cut_all_the_same() -> None:
    behind = make_scan(np.array([[-5.0, 0, 0], [-6, 1, 0]]), cameras=(camera(),))
    sample = make_sample(behind, 0, data(**AUGMENT), training=True, rng=np.random.default_rng(0))
    assert sample.cameras.images.shape == (1, 3, 30, 40) and not sample.cameras.visible.any()


# --- losses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 7, 3600])
def test_infonce_of_equal_rows_is_the_logarithm_of_their_number(count: int) -> None:
    rows = F.normalize(torch.ones(count, 16), dim=1)
    assert float(info_nce(rows, rows, 0.07)) == pytest.approx(math.log(count), abs=1e-4)


def test_infonce_is_one_way() -> None:
    rng = torch.Generator().manual_seed(0)
    k, q = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    terms = []
    for i in range(5):
        scores = [math.exp(float(k[i] @ q[j]) / 0.07) for j in range(5)]
        terms.append(-math.log(scores[i] / sum(scores)))
    assert float(info_nce(k, q, 0.07)) == pytest.approx(sum(terms) / 5, rel=1e-9)
    assert float(info_nce(q, k, 0.07)) != pytest.approx(sum(terms) / 5, rel=1e-3)


def test_infonce_of_nothing_has_a_gradient() -> None:
    k, q = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    loss = info_nce(k, q, 0.07)
    loss.backward()
    assert float(loss.detach()) == 0 and k.grad is not None and q.grad is not None


def test_means_are_those_of_a_loop_and_keep_their_length() -> None:
    rng = torch.Generator().manual_seed(0)
    feats = torch.randn(30, 4, generator=rng).requires_grad_()
    rows = torch.randint(0, 30, (100,), generator=rng)
    groups = torch.randint(0, 6, (100,), generator=rng)
    groups[groups == 3] = 4  # a group of none
    found = pooled(feats, rows, groups, 6)
    for group in range(6):
        own = feats[rows[groups == group]]
        expected = own.sum(0) / (len(own) + 1e-6)
        torch.testing.assert_close(found[group], expected)
    weights = torch.randn(6, 4, generator=rng)
    (gradient,) = torch.autograd.grad((found * weights).sum(), feats)
    expected = torch.zeros(30, 4)
    sizes = torch.bincount(groups, minlength=6)
    for row, group in zip(rows, groups):
        expected[row] += weights[group] / (sizes[group] + 1e-6)
    torch.testing.assert_close(gradient, expected)


def naive_slidr(method: SLidR, batch: Batch) -> float:
    """The loss by its formula: one loop over images and superpixels."""
    cells = F.normalize(method.student(batch).logits, dim=1)
    pairs = Pairs.of(batch)
    labels = batch.cameras.planes["superpixels"].flatten(0, 1)
    images = batch.cameras.images.flatten(0, 1)
    raised = F.interpolate(
        method.image.maps(images), images.shape[2:], mode="bilinear", align_corners=True
    )
    maps = raised / raised.norm(dim=1, keepdim=True)
    points, regions = [], []
    for image in range(len(images)):
        for label in labels[image].unique().tolist():
            own = pairs.image == image
            own &= labels[pairs.image, pairs.row, pairs.column] == label
            if label < 0 or not own.any():
                continue
            points.append(cells[batch.cells.of_point[pairs.point[own]]].mean(0))
            regions.append(maps[image][:, labels[image] == label].mean(1))
    k, q = torch.stack(points), torch.stack(regions)
    scores = (k @ q.T / 0.07).log_softmax(1)
    return float(-scores.diagonal().mean().detach())


def test_slidr_is_its_formula() -> None:
    kind, keys = METHODS["slidr"]
    method, batch = method_of(kind, **keys), batch_of()
    loss = float(method(batch)["contrast"].detach())
    assert loss == pytest.approx(naive_slidr(method, batch), rel=1e-4)
    assert 1.0 < loss < 8.0


def test_slidr_of_identical_features_is_the_logarithm_of_its_superpixels() -> None:
    kind, keys = METHODS["slidr"]
    method, batch = method_of(kind, **keys), batch_of()
    for layer in (method.student.layer, method.image.decoder):
        nn.init.zeros_(layer.weight)
        nn.init.ones_(layer.bias)
    pairs = Pairs.of(batch)
    labels = batch.cameras.planes["superpixels"].flatten(0, 1)
    found = labels[pairs.image, pairs.row, pairs.column]
    regions = torch.stack([pairs.image, found], 1)[found >= 0].unique(dim=0)
    assert float(method(batch)["contrast"]) == pytest.approx(math.log(len(regions)), rel=1e-4)


def test_ppkt_draws_its_pairs_and_evaluates_the_same_ones() -> None:
    kind, keys = METHODS["ppkt"]
    method, batch = method_of(kind, **keys), batch_of()
    drawn = {float(method(batch)["contrast"].detach()) for _ in range(3)}
    assert len(drawn) == 3
    method.eval()
    with torch.no_grad():
        assert len({float(method(batch)["contrast"]) for _ in range(3)}) == 1
    assert method._drawn(40, 100, torch.device("cpu")).sort().values.tolist() == list(range(40))


def test_ppkt_over_all_pairs_is_its_formula() -> None:
    batch = batch_of()
    pairs = Pairs.of(batch)
    method = method_of(PPKT, name="ppkt", width=8, image=IMAGE, pairs=10**6)
    points = F.normalize(method.student(batch).logits, dim=1)[batch.cells.of_point[pairs.point]]
    pixels = read_pixels(method, batch, pairs)
    scores = (points @ pixels.T / 0.07).log_softmax(1)
    expected = float(-scores.diagonal().mean().detach())
    assert float(method(batch)["contrast"]) == pytest.approx(expected, rel=1e-4)


def read_pixels(method: ImageTeaching, batch: Batch, pairs: Pairs) -> Tensor:
    """The enlarged map of every image, looked up."""
    images = batch.cameras.images.flatten(0, 1)
    raised = F.interpolate(
        method.image.maps(images), images.shape[2:], mode="bilinear", align_corners=True
    )
    return F.normalize(raised[pairs.image, :, pairs.row, pairs.column], dim=1)


def test_scalr_is_the_mean_distance() -> None:
    kind, keys = METHODS["scalr"]
    method, batch = method_of(kind, **keys), batch_of()
    pairs = Pairs.of(batch)
    points = F.normalize(method.student(batch).logits, dim=1)[batch.cells.of_point[pairs.point]]
    expected = (points - read_pixels(method, batch, pairs)).norm(dim=1).mean()
    torch.testing.assert_close(method(batch)["distance"], expected, rtol=1e-4, atol=1e-5)
    assert isinstance(method.image.decoder, nn.Identity)


# --- what learns ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_the_network_and_never_the_encoder(name: str) -> None:
    kind, keys = METHODS[name]
    method, batch = method_of(kind, **keys), batch_of()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    optimizer = torch.optim.SGD(
        [p for p in method.parameters() if p.requires_grad], 0.5, weight_decay=0.1
    )
    sum(method(batch).values()).backward()
    optimizer.step()
    moved = {key for key, value in method.state_dict().items() if (value != before[key]).any()}
    assert not any(key.startswith("image.encoder.") for key in moved)
    learned = {"student.layer.weight", "student.layer.bias"}
    if name != "scalr":
        learned |= {"image.decoder.weight", "image.decoder.bias"}
    assert moved == learned
    assert not method.image.encoder.training


@pytest.mark.parametrize("name", METHODS)
def test_scans_whose_points_no_camera_sees_cost_nothing(name: str) -> None:
    kind, keys = METHODS[name]
    method = method_of(kind, **keys)
    behind = make_scan(np.array([[-5.0, 0, 0], [-6, 1, 0]]), cameras=(camera(),))
    batch = collate([make_sample(behind, 0, data())])
    loss = sum(method(batch).values())
    loss.backward()
    assert float(loss.detach()) == 0


def test_a_batch_without_images_is_told() -> None:
    kind, keys = METHODS["slidr"]
    batch = collate([make_sample(scan(), 0, data(images=False, planes=[]))])
    with pytest.raises(UserError, match="the batch has none"):
        method_of(kind, **keys)(batch)


def test_published_settings_are_the_defaults() -> None:
    slidr, ppkt = SLidR.Config(name="slidr"), PPKT.Config(name="ppkt")
    assert (slidr.width, slidr.temperature, slidr.image.dilated) == (64, 0.07, True)
    assert slidr.image.encoder == "resnet50" and slidr.needs.planes == ("superpixels",)
    assert (ppkt.pairs, ppkt.image.dilated) == (4096, False)
    assert SLidR.Config(name="slidr", image={"weights": "f.pth"}).image.dilated
    assert not SLidR.Config(name="slidr").needs.labels
