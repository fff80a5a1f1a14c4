"""2DPASS's image network: published sizes, and pixels read before instead of after the enlargement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from camera_scene import camera_batch
from torch import nn

from core.errors import UserError
from core.models.image.resnet_fcn import MAP_STRIDES, FCNConfig, PixelReader, ResNetFCN
from core.models.image.sampling import PixelLinks


def make(width: int = 8, encoder: str = "resnet18", **options: object) -> ResNetFCN:
    torch.manual_seed(0)
    return ResNetFCN(FCNConfig(encoder=encoder, **options), width)


@pytest.mark.parametrize(
    ("width", "decoders"), [(64, 3_121_344), (128, 3_797_312), (256, 5_149_248)]
)
def test_parameter_counts(width: int, decoders: int) -> None:
    with torch.device("meta"):
        model = ResNetFCN(FCNConfig(), width)
    assert sum(p.numel() for p in model.encoder.parameters()) == 21_284_672
    assert sum(p.numel() for p in model.decoders.parameters()) == decoders


def test_shapes_of_a_published_crop() -> None:
    with torch.device("meta"):
        model = ResNetFCN(FCNConfig(), 64)
        seen = []
        for decoder in model.decoders:
            decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1:]))
        for i in range(4):
            getattr(model.encoder, f"layer{i + 1}").register_forward_hook(
                lambda *call: seen.append(call[2].shape[1:])
            )
        maps = model(torch.empty(2, 3, 320, 480))
    assert [tuple(shape) for shape in seen] == [
        (64, 160, 240),
        (128, 80, 120),
        (256, 40, 60),
        (512, 20, 30),
    ]
    assert [tuple(m.shape) for m in maps] == [(2, 64, 160, 240), *[(2, 64, 80, 120)] * 3]


def test_a_map_reads_its_layers_in_order() -> None:
    """Convolution, then the transposed ones, each rectified."""
    model = make().eval()
    kinds = [
        [type(layer) for layer in decoder if not isinstance(layer, nn.ReLU)]
        for decoder in model.decoders
    ]
    conv, up = nn.Conv2d, nn.ConvTranspose2d
    assert kinds == [[conv], [conv], [conv, up], [conv, up, up]]
    with torch.no_grad():
        x = model.encoder.stem((torch.rand(1, 3, 32, 32) - model.mean) / model.std)
        for i in range(3):
            x, _ = model.encoder.stage(i, x)
        conv, up = model.decoders[2][0], model.decoders[2][2]
        expected = F.relu(up(F.relu(F.conv2d(x, conv.weight, padding=3))))
        torch.testing.assert_close(model.decoders[2](x), expected)


@pytest.mark.parametrize("size", [(32, 48), (35, 50)])
def test_pixels_before_the_enlargement_are_those_after(size: tuple[int, int]) -> None:
    model = make().eval()
    height, width = size
    rows, columns = (
        g.flatten()
        for g in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    image = torch.arange(len(rows)) % 2
    areas = torch.stack([columns, rows], 1).to(torch.int16)[None]
    read = PixelReader(areas, image)
    assert read.point.tolist() == list(range(len(rows)))
    with torch.no_grad():
        maps = model(torch.rand(2, 3, height, width))
        for i, features in enumerate(maps):
            full = F.interpolate(features, scale_factor=MAP_STRIDES[i], mode="nearest")
            assert full.shape[2] >= height and full.shape[3] >= width
            torch.testing.assert_close(read(features, i), full[image, :, rows, columns])


def test_pixels_of_a_batch_and_their_gradient() -> None:
    batch = camera_batch(0, 1)
    read = PixelReader(batch.areas, batch.image_rows)
    links = PixelLinks.of(batch, "last")  # the same pairs, in the same order
    assert torch.equal(read.point, links.point) and torch.equal(read.image, links.image)
    features = torch.randn(6, 4, 12, 20, requires_grad=True)
    values = read(features, 0)
    assert len(values) == int(batch.visible.sum())  # every camera that sees a point gives a row
    values.sum().backward()
    assert float(features.grad.sum()) == 4 * len(values)
    nowhere = PixelReader(torch.full_like(batch.areas, -1), batch.image_rows)(features, 0)
    assert nowhere.shape == (0, 4)
    nowhere.sum().backward()


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = make().encoder.state_dict() | {
        "fc.weight": torch.zeros(2, 2),
        "fc.bias": torch.zeros(2),
    }
    torch.save({key: value + 1 for key, value in source.items()}, tmp_path / "r18.pth")
    model = make(weights=tmp_path / "r18.pth")
    model.load_pretrained()
    torch.testing.assert_close(model.encoder.conv1.weight, source["conv1.weight"] + 1)
    with pytest.raises(UserError, match="not those of the encoder"):
        make(encoder="resnet34", weights=tmp_path / "r18.pth").load_pretrained()
