"""The image branch: sizes from the layer list, a stage against a plain reference, weight files and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from camera_scene import camera_batch
from image_reference import gradients, naive_unit, unsettle
from safetensors.torch import save_file
from torch import Tensor

from core.errors import UserError
from core.models.image.resnet import RESNETS, ResNet
from core.models.image.sampling import PixelLinks, sample_image
from core.models.image.swiftnet import ImageConfig, SwiftNet, upsample


def branch(**options) -> SwiftNet:
    torch.manual_seed(0)
    return SwiftNet(ImageConfig(**options))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def run(net: SwiftNet, images: Tensor) -> tuple[list[Tensor], Tensor]:
    x, skips = net.stem(images), []
    for i in range(4):
        x, skip = net.stage(i, x)
        skips.append(skip)
    return skips, net.decode(skips)


# --- sizes, from the layers of the paper ----------------------------------------------------------------------------
def conv_bn(cin: int, cout: int, kernel: int) -> int:
    return cin * cout * kernel**2 + 2 * cout


def norm_conv(cin: int, cout: int, kernel: int = 1) -> int:
    return 2 * cin + cin * cout * kernel**2


def resnet_size(name: str) -> int:
    total, cin = conv_bn(3, 64, 7), 64
    for i, blocks in enumerate(RESNETS[name]):
        for j in range(blocks):
            width = 64 << i
            if name == "resnet50":
                cout = 4 * width
                total += conv_bn(cin, width, 1) + conv_bn(width, width, 3) + conv_bn(width, cout, 1)
            else:
                cout = width
                total += conv_bn(cin, width, 3) + conv_bn(width, width, 3)
            if j == 0 and (i or cin != cout):
                total += conv_bn(cin, cout, 1)
            cin = cout
    return total


@pytest.mark.parametrize(
    "name, millions", [("resnet18", 11.18), ("resnet34", 21.28), ("resnet50", 23.51)]
)
def test_encoder_size(name: str, millions: float) -> None:
    net = ResNet(name)
    assert count(net) == resnet_size(name) and round(count(net) / 1e6, 2) == millions


def test_pooling_and_decoder_size() -> None:
    net, width, level = branch(), 128, 42
    pooling = (
        norm_conv(512, width) + 3 * norm_conv(width, level) + norm_conv(width + 3 * level, width)
    )
    decoder = sum(norm_conv(skip, width) + norm_conv(width, width, 3) for skip in (256, 128, 64))
    assert count(net.spp) == pooling and round(pooling / 1e6, 2) == 0.12
    assert count(net.decoder) == decoder and round(decoder / 1e6, 2) == 0.50


@pytest.mark.parametrize("stem_stride, stride", [(1, 2), (2, 4)])
def test_strides_and_channels(stem_stride: int, stride: int) -> None:
    net = branch(stem_stride=stem_stride).eval()
    with torch.no_grad():
        skips, decoded = run(net, torch.rand(2, 3, 64, 96))
    assert [s.shape[1] for s in skips] == [64, 128, 256, 128] == list(net.channels)
    assert [64 // s.shape[2] for s in skips] == [stride << i for i in range(4)]
    assert decoded.shape == (2, 128, 64 // stride, 96 // stride)
    assert decoded.is_contiguous(memory_format=torch.channels_last)


# --- values ---------------------------------------------------------------------------------------------------------
def plain_norm(x: Tensor, norm: torch.nn.BatchNorm2d) -> Tensor:
    columns = [
        t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    ]
    return (x - columns[0]) / (columns[1] + norm.eps).sqrt() * columns[2] + columns[3]


def plain_norm_conv(x: Tensor, unit: torch.nn.Sequential) -> Tensor:
    kernel = unit[2].weight
    return F.conv2d(plain_norm(x, unit[0]).clamp(min=0), kernel, padding=kernel.shape[2] // 2)


@torch.no_grad()
def test_pyramid_pooling_and_decoder_step_by_step() -> None:
    net = branch(stem_stride=2, decoder_channels=24, spp_grids=(4, 2)).double().eval()
    unsettle(net)
    features = torch.randn(1, 512, 5, 8, dtype=torch.float64)
    reduced = plain_norm_conv(features, net.spp.reduce)
    maps = [reduced]
    for grid, columns, level in (
        (4, 6, net.spp.levels[0]),
        (2, 3, net.spp.levels[1]),
    ):  # round(8 / 5 * 4), ...
        pooled = plain_norm_conv(F.adaptive_avg_pool2d(reduced, (grid, columns)), level)
        maps.append(F.interpolate(pooled, (5, 8), mode="bilinear", align_corners=True))
    expected = plain_norm_conv(torch.cat(maps, 1), net.spp.fuse)
    torch.testing.assert_close(net.spp(features), expected)

    skips = [
        torch.randn(1, c, 40 >> i, 64 >> i, dtype=torch.float64)
        for i, c in enumerate((64, 128, 256))
    ]
    x = expected
    for unit, skip in zip(net.decoder, reversed(skips)):
        up = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=True)
        x = plain_norm_conv(plain_norm_conv(skip, unit.skip) + up, unit.blend)
    torch.testing.assert_close(net.decode([*skips, expected]), x)


@torch.no_grad()
def test_encoder_equals_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    for name in ("resnet18", "resnet50"):
        torch.manual_seed(0)
        theirs = getattr(torchvision.models, name)().eval()
        ours = ResNet(name, stem_stride=2).eval()
        ours.load_state_dict(
            {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
        )
        images = torch.rand(1, 3, 64, 64)
        x = ours.stem(images)
        for i in range(4):
            x, _ = ours.stage(i, x)
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for i in range(4):
            y = getattr(theirs, f"layer{i + 1}")(y)
        torch.testing.assert_close(x, y)


@torch.no_grad()
def test_skip_before_and_after_the_last_relu() -> None:
    images = torch.rand(1, 3, 32, 32)
    after, before = branch(stem_stride=2).eval(), branch(stem_stride=2, skip="preactivation").eval()
    x, y = after.stem(images), before.stem(images)
    for i in range(3):
        (x, activated), (y, raw) = after.stage(i, x), before.stage(i, y)
        assert raw.min() < 0 <= activated.min()
        torch.testing.assert_close(raw.relu(), activated)
        torch.testing.assert_close(x, y)


@torch.no_grad()
def test_normalisation() -> None:
    seen: list[Tensor] = []
    white = torch.ones(1, 3, 8, 8)
    for normalize in ("imagenet", "none"):
        net = branch(normalize=normalize)
        net.encoder.stem = lambda x: seen.append(x)
        net.stem(white)
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    )
    assert seen[1][0, :, 0, 0].tolist() == pytest.approx([255.0] * 3)


def test_upsampling_aligns_corners() -> None:
    x = torch.tensor([[[[0.0, 3.0]]]])
    assert upsample(x, (1, 4)).flatten().tolist() == pytest.approx([0, 1, 2, 3])


# --- the decoder at points ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("overlap", ["last", "mean"])
@pytest.mark.parametrize("training", [True, False])
def test_decoder_at_points(overlap: str, training: bool) -> None:
    """Against whole maps, read afterwards; corners, edges and points that two cameras see among them."""
    net, batch = branch(decoder_channels=40).double(), camera_batch(0, 1)
    unsettle(net)
    net.train(training)
    batch.visible[0, :4] = True
    batch.pixels[0, :4] = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    links = PixelLinks.of(batch, overlap)
    skips = [
        torch.randn(6, c, 36 >> i, 56 >> i, dtype=torch.float64)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for i, c in enumerate((64, 128, 256, 40))
    ]
    x = skips[-1]
    for unit, skip in zip(net.decoder, reversed(skips[:-1])):
        up = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=True)
        x = naive_unit(naive_unit(skip, unit.skip) + up, unit.blend)
    expected, found = sample_image(x, links)[links.rows], net.decode_at(skips, links)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    inputs = [*skips, *net.decoder.parameters()]
    torch.testing.assert_close(
        gradients(found, inputs), gradients(expected, inputs), rtol=1e-9, atol=1e-9
    )


def test_decoder_without_a_point_and_with_many() -> None:
    net, batch = branch(decoder_channels=24).train(), camera_batch(0, 1)
    skips = [torch.randn(6, c, 8 >> i, 16 >> i) for i, c in enumerate((64, 128, 256, 24))]
    crowded = PixelLinks.of(batch, "last")
    assert 2 * len(crowded.rows) > 6 * 8 * 16
    dense = sample_image(net.decode(skips), crowded)[crowded.rows]
    torch.testing.assert_close(net.decode_at(skips, crowded), dense)
    batch.visible[:] = False
    empty = net.decode_at(skips, PixelLinks.of(batch, "last"))
    assert empty.shape == (0, 24)
    empty.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.decoder.parameters())


# --- weights from a file --------------------------------------------------------------------------------------------
def imagenet_like(tmp_path: Path, suffix: str = ".pth", **changes) -> Path:
    torch.manual_seed(5)
    weights = dict(ResNet("resnet18").state_dict()) | {
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            weights.pop(key)
        else:
            weights[key] = value
    path = tmp_path / f"resnet18{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read(tmp_path: Path, suffix: str) -> None:
    net = branch(weights=imagenet_like(tmp_path, suffix))
    before = net.encoder.layer1[0].conv1.weight.clone()
    net.load_pretrained()
    torch.manual_seed(5)
    expected = ResNet("resnet18")
    assert torch.equal(net.encoder.layer1[0].conv1.weight, expected.layer1[0].conv1.weight)
    assert not torch.equal(net.encoder.layer1[0].conv1.weight, before)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer2__0__conv1__weight": None}, r"missing: layer2\.0\.conv1\.weight"),
        ({"layer5__weight": torch.zeros(1)}, r"unexpected: layer5\.weight"),
        (
            {"conv1__weight": torch.zeros(64, 1, 7, 7)},
            r"conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)",
        ),
        ({"epoch": 3}, "expected tensors by layer name"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        branch(weights=imagenet_like(tmp_path, **changes)).load_pretrained()
    assert "resnet18.pth" in str(error.value)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_missing_and_malicious_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(UserError, match="does not exist"):
        branch(weights=path).load_pretrained()
    path.write_bytes(imagenet_like(tmp_path, suffix).read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot read these weights"):
        branch(weights=path).load_pretrained()
    torch.save({"conv1.weight": Evil(tmp_path / "touched")}, path)
    with pytest.raises(UserError, match="cannot read these weights"):
        branch(weights=path).load_pretrained()
    assert not (tmp_path / "touched").exists()


# --- timm -----------------------------------------------------------------------------------------------------------
def test_choices_a_timm_model_does_not_have() -> None:
    with pytest.raises(UserError, match="skip cannot be chosen"):
        branch(encoder="convnext_atto", skip="preactivation")


@pytest.mark.parametrize(
    ("name", "channels"),
    [("regnety_002", (32, 24, 56, 24)), ("tf_efficientnet_lite0", (16, 24, 40, 24))],
)
def test_timm_model_runs_stage_by_stage(name: str, channels: tuple[int, ...]) -> None:
    timm = pytest.importorskip("timm")
    net = branch(encoder=name, decoder_channels=24).eval()
    assert net.channels == channels
    images = torch.rand(1, 3, 64, 64)
    whole = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3)).eval()
    own = net.encoder.net.state_dict()
    for (
        key,
        value,
    ) in whole.state_dict().items():  # of timm's own form, which keeps what comes after
        flat = key.replace("blocks.", "blocks_")
        if flat in own:
            value.copy_(own.pop(flat))
    assert not own
    with torch.no_grad():
        x = images
        for i, expected in enumerate(whole(images)):
            x, skip = net.encoder.stage(i, x)
            torch.testing.assert_close(skip, expected)
        assert run(net, images)[1].shape == (1, 24, 32, 32)


@pytest.mark.parametrize(
    "name, message",
    [
        ("vit_tiny_patch16_224", "cannot be run stage by stage"),
        ("hrnet_w18_small", "cannot be run stage by stage"),
        ("resnet19", "neither LiDistill nor timm knows"),
    ],
)
def test_timm_models_that_do_not_fit(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=message):
        branch(encoder=name)


def test_strides_a_model_lacks() -> None:
    from core.models.image.timm_encoder import pick_taps

    assert pick_taps([2, 4, 8, 16, 32], "a") == [0, 1, 2, 3]
    assert pick_taps([4, 8, 16, 32], "b") == [0, 1, 2, 3]
    with pytest.raises(UserError, match="stride 4, 32 is lacking"):
        pick_taps([2, 8, 16], "c")


def test_timm_weights_of_the_whole_model(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "convnext.pth"
    whole = timm.create_model("convnext_atto")
    torch.save(whole.state_dict(), path)
    net = branch(encoder="convnext_atto", weights=path, decoder_channels=24)
    net.load_pretrained()
    assert torch.equal(net.encoder.net["stem_0"].weight, whole.stem[0].weight)
    weights = {k: v for k, v in whole.state_dict().items() if not k.startswith("stages.1.")}
    torch.save(weights, path)
    with pytest.raises(UserError, match=r"missing: stages_1\."):
        net.load_pretrained()
