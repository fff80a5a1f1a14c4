"""Image features of SLidR, PPKT and ScaLR: torchvision's ResNets, published files, transformers, single pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from made_samples import unlike_new
from torch import Tensor

from core.errors import UserError
from core.models.fusion.student import LidarCamera
from core.models.image.features import FeatureConfig, ImageFeatures, encoder_width
from core.models.image.weights import read_weights

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def made(width: int | None = None, **keys: object) -> ImageFeatures:
    torch.manual_seed(0)
    return ImageFeatures(FeatureConfig(**keys), width).eval()


@pytest.mark.parametrize(
    ("dilated", "options", "stride"),
    [(True, {"replace_stride_with_dilation": [True, True, True]}, 4), (False, {}, 32)],
)
def test_resnet50_is_torchvisions(dilated: bool, options: dict, stride: int) -> None:
    reference = torchvision.models.resnet50(**options).eval()
    features = made(dilated=dilated)
    weights = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    features.encoder.load_state_dict(weights)
    body = torch.nn.Sequential(*list(reference.children())[:-2])
    with torch.no_grad():
        expected = body.double()((IMAGES.double() - MEAN.double()) / STD.double()).float()
        found = features.double().maps(IMAGES.double())
    assert found.shape == (2, 2048, 64 // stride, 96 // stride)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_learns_is_one_convolution() -> None:
    features = ImageFeatures(FeatureConfig(dilated=True), 64)
    assert sum(p.numel() for p in features.decoder.parameters()) == 131_136


def test_single_pixels_are_those_of_the_enlarged_map() -> None:
    features = made(5, encoder="resnet18")
    raised = F.interpolate(features.maps(IMAGES), (64, 96), mode="bilinear", align_corners=True)
    everywhere = F.normalize(raised, dim=1).permute(0, 2, 3, 1)
    generator = torch.Generator().manual_seed(1)
    image, row, column = (torch.randint(0, n, (200,), generator=generator) for n in (2, 64, 96))
    row[:2], column[:2] = torch.tensor([0, 63]), torch.tensor([0, 95])
    found = features.at(IMAGES, image, column, row)
    torch.testing.assert_close(found, everywhere[image, row, column], rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert features.decoder.weight.grad is not None
    assert all(p.grad is None for p in features.encoder.parameters())


# --- files of weights -------------------------------------------------------------------------------------------------
def wrapped(weights: dict[str, Tensor], kind: str) -> dict[str, object]:
    """How each method publishes its encoder."""
    other = torch.zeros(1)
    if kind == "moco":
        named = {f"module.encoder_q.{k}": v for k, v in weights.items()}
        named |= {f"module.encoder_k.{k}": v + 1 for k, v in weights.items()}
        named["module.encoder_q.fc.0.weight"] = other
        return {"epoch": 800, "arch": "resnet50", "state_dict": named, "optimizer": {"lr": 0.03}}
    if kind == "swav":
        named = {f"module.{k}": v for k, v in weights.items()}
        return named | {"module.projection_head.0.weight": other, "module.prototypes.weight": other}
    if kind == "obow":
        return {"network": dict(weights), "epoch": 1}
    if kind == "pixpro":
        named = {f"module.encoder.{k}": v for k, v in weights.items()}
        return {"model": named | {"module.projector.conv1.weight": other}, "epoch": 1}
    return weights | {"fc.weight": other, "fc.bias": other}


@pytest.mark.parametrize("kind", ["imagenet", "moco", "swav", "obow", "pixpro"])
def test_published_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    source = made(encoder="resnet18")
    own = {k: v + 0.5 for k, v in source.encoder.state_dict().items()}
    torch.save(wrapped(own, kind), path)
    features = ImageFeatures(FeatureConfig(encoder="resnet18", weights=path), 4)
    features.load_pretrained()
    for key, value in features.encoder.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, own[key].to(value.dtype))


def test_what_holds_no_tensors_is_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"a": 3}, "epoch": 1}, path)
    with pytest.raises(UserError, match="expected tensors by layer name"):
        read_weights(path)


# --- other encoders ---------------------------------------------------------------------------------------------------
def test_a_transformer_gives_a_map_of_its_patches(tmp_path: Path) -> None:
    import timm

    reference = timm.create_model("test_vit", num_classes=3, dynamic_img_size=True).eval()
    path = tmp_path / "vit.pth"
    torch.save(reference.state_dict(), path)
    features = made(encoder="test_vit", weights=path)
    features.load_pretrained()
    patch = reference.patch_embed.patch_size[0]
    images = F.interpolate(IMAGES, (2 * patch, 3 * patch))
    with torch.no_grad():
        found = features.maps(images)
        normal = (images - 0.5) / 0.5  # by which timm's own transformers were trained
        tokens = reference.forward_features(normal)[:, reference.num_prefix_tokens :]
    width = encoder_width(FeatureConfig(encoder="test_vit"))
    assert found.shape == (2, width, 2, 3)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="whole number of patches"):
        features.maps(IMAGES[:, :, : patch + 1])


def test_a_convolutional_network_of_timm() -> None:
    features = made(6, encoder="test_resnet")
    assert features.at(IMAGES, *torch.tensor([[0, 1], [3, 95], [5, 63]])).shape == (2, 6)


def test_swiftnet_as_a_lidar_camera_network_learned_it(tmp_path: Path) -> None:
    """Its decoded map, a quarter of the images in size, with the weights of the image branch alone."""
    torch.manual_seed(1)
    keys = {"name": "lidar_camera", "lidar": {"name": "minkunet", "cr": 0.1}, "l2c": False}

    def network(**image: int) -> LidarCamera:
        given = keys | {"image": {"stem_stride": 2, **image}}
        return LidarCamera(LidarCamera.Config.model_validate(given), 5)

    trained = unlike_new(network()).eval()
    path = tmp_path / "best.pt"
    torch.save({"model": trained.state_dict(), "global_step": 3}, path)
    features = made(encoder="swiftnet", weights=path)
    features.load_pretrained()
    branch = trained.pix_branch
    with torch.no_grad():
        x, skips = branch.stem(IMAGES), []
        for i in range(4):
            x, skip = branch.stage(i, x)
            skips.append(skip)
        expected = branch.decode(skips)
        found = features.maps(IMAGES)
    assert found.shape == (2, encoder_width(FeatureConfig(encoder="swiftnet")), 16, 24)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert expected.abs().mean() > 0.1
    torch.save({"model": network(decoder_channels=96).state_dict()}, path)
    with pytest.raises(UserError, match=r"not those of the encoder; of another shape: spp"):
        features.load_pretrained()


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"encoder": "resnet18", "dilated": True}, "cannot be dilated"),
        ({"encoder": "resnet5O"}, "neither LiDistill nor timm knows"),
    ],
)
def test_encoders_that_are_none(keys: dict, what: str) -> None:
    with pytest.raises(UserError, match=what):
        made(**keys)
