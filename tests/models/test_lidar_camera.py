"""The LiDAR-camera student: size, any number of cameras, ablations, gradients, independence of company and order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from camera_scene import SIZE, camera_batch, double
from made_samples import with_cameras_in_order, with_visible, without_images
from torch import Tensor, nn

from core.config import Config
from core.contracts import Batch
from core.errors import UserError
from core.models import build_model
from core.models.fusion.output import FusedOutput
from core.models.fusion.student import LidarCamera
from core.models.probe import probe, random_batch
from core.sparse import devoxelize, voxel_mean

SMALL = {"encoder": "resnet18", "stem_stride": 2, "decoder_channels": 24}
CLASSES = 5


def student(
    lidar: str = "spvcnn", cr: float = 0.25, image: dict | None = None, **options
) -> LidarCamera:
    torch.manual_seed(0)
    section = {
        "name": "lidar_camera",
        "lidar": {"name": lidar, "cr": cr},
        "image": SMALL | (image or {}),
        **options,
    }
    return build_model(Config({"model": section}), CLASSES)


def exact(**options) -> LidarCamera:
    """Float64, evaluation, normalisations that are not the identity."""
    net, generator = student(**options).double().eval(), torch.Generator().manual_seed(1)
    for bn in (m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        for tensor, low in (
            (bn.running_mean, -0.3),
            (bn.running_var, 0.5),
            (bn.weight, 0.5),
            (bn.bias, -0.3),
        ):
            tensor.data.uniform_(low, low + 0.8, generator=generator)
    return net


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # point weights are f32


# --- size -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cr, total", [(1.0, 35.8), (2.0, 105.4)])
def test_size_of_the_published_student(cr: float, total: float) -> None:
    """Parts as the layer lists of test_swiftnet and test_fusion give them; the adapter is the method's."""
    teacher = {1.0: 23.0, 2.0: 91.7}[cr]
    net = build_model(
        Config({"model": {"name": "lidar_camera", "lidar": {"name": "spvcnn_spformer", "cr": cr}}}),
        17,
    )
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    head = 2 * 128 + 128 * 17
    assert round(parts["lidar"] / 1e6, 1) == teacher
    assert parts["pix_branch"] == 11_176_512 + 116_476 + 501_376 and parts["classifier_pix"] == head
    adapter = (int(256 * cr) + 1) * 512 + 2 * 512  # Linear and BN to the cr 2 teacher's stage
    assert round((sum(parts.values()) + adapter) / 1e6, 1) == total


# --- forward --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cameras", range(7))
def test_any_number_of_cameras(cameras: int) -> None:
    net, batch = student().train(), camera_batch(0, 1, cameras=cameras)
    for training in (True, False):
        net.train(training)
        output = net(batch)
        assert (
            output.logits.shape == (len(batch.coords), CLASSES) and output.logits.isfinite().all()
        )
        assert output.in_view.tolist() == batch.visible.any(0).tolist()
        assert (output.pixel_logits is not None) == training


@pytest.mark.parametrize(
    "lidar, cr", [("minkunet", 0.25), ("spvcnn", 0.25), ("spvcnn_spformer", 0.5)]
)
def test_every_backbone_learns(lidar: str, cr: float) -> None:
    net, batch = student(lidar, cr).train(), camera_batch(0, 1)
    output = net(batch)
    count = len(batch.coords)
    widths = [64, 128, 256, 24]
    assert [f.shape for f in output.image_features] == [(count, width) for width in widths]
    assert [f.shape for f in output.learned_features] == [(count, width) for width in widths]
    assert output.points.shape == (count, int(256 * cr))
    assert output.pixel_logits.shape == (count, CLASSES)
    assert [s.stride[0] for s in output.stages] == [2, 4, 8, 16, 8, 4, 2, 1]
    pairs = zip(output.learned_features, output.image_features)
    align = sum((a - b)[output.in_view].square().mean() for a, b in pairs)
    (output.logits.square().mean() + output.pixel_logits.square().mean() + align).backward()
    missing = [
        name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not missing


@pytest.mark.parametrize("images", [True, False])
def test_mixed_precision(images: bool) -> None:
    net, batch = student().train(), camera_batch(0, 1)
    exactly = net.eval()(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        output = net.train()(batch if images else without_images(batch))
        exchanged = [output.points, *output.image_features, *output.learned_features]
        if images:
            exchanged.append(output.pixel_logits)
        loss = output.logits.float().square().mean()
        (loss + sum(value.float().mean() for value in exchanged)).backward()
        assert output.logits.dtype == torch.bfloat16
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        roughly = student().eval()(batch).logits
    assert (roughly - exactly).abs().max() < 0.1 * exactly.abs().max()


def test_nothing_in_view() -> None:
    net, batch = student().train(), camera_batch(0, 1)
    output = net(with_visible(batch, torch.zeros_like(batch.visible)))
    assert output.logits.isfinite().all() and not output.in_view.any()
    assert output.pixel_logits.abs().max() == 0
    assert output.image_features[2].abs().max() == 0
    (output.logits.square().mean() + output.pixel_logits.square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_single_voxel() -> None:
    one = camera_batch(0, voxels=1)
    assert len(one.coords) == 1
    net = student().eval()
    with torch.no_grad():
        for b in (one, without_images(one)):
            assert net(b).logits.isfinite().all()


@torch.no_grad()
def test_camera_free_equals_cameras_that_see_nothing() -> None:
    """Without images every point takes the learner's features, attention included."""
    net, batch = exact(lidar="spvcnn_spformer", cr=0.5), double(camera_batch(0, 1))
    blind = net(with_visible(batch, torch.zeros_like(batch.visible))).logits
    close(net(without_images(batch)).logits, blind)
    assert not torch.allclose(net(batch).logits, blind, atol=1e-3)
    assert probe(net.float()).points.shape == (len(random_batch(300).coords), 128)


@torch.no_grad()
def test_points_out_of_view_do_not_read_images() -> None:
    net, batch = exact(c2l=True, l2c=False), double(camera_batch(0))
    output, used = run_and_spy(net, batch)
    seen = batch.visible.any(0)
    for image, learned, taken in zip(output.image_features, output.learned_features, used):
        assert torch.equal(taken[seen], image[seen])
        assert torch.equal(taken[~seen], learned[~seen])
    assert len(output.image_features) == len(used) == 4


def run_and_spy(net: LidarCamera, batch: Batch) -> tuple[FusedOutput, list[Tensor]]:
    """The student's output and the image features that each camera-to-LiDAR block was given."""
    used: list[Tensor] = []
    for block in net.c2l_fusion_blocks:
        block.register_forward_pre_hook(lambda _, inputs: used.append(inputs[1]))
    return net(batch), used


@torch.no_grad()
@pytest.mark.parametrize("cameras", [True, False])
def test_company_in_the_batch_does_not_matter(cameras: bool) -> None:
    net = exact(eval_pixels=True)
    together, *alone = (double(camera_batch(*seeds)) for seeds in ((0, 1, 2), (0,), (1,), (2,)))
    if not cameras:
        together, alone = without_images(together), [without_images(b) for b in alone]
    whole, parts = net(together), [net(b) for b in alone]
    close(whole.logits, torch.cat([p.logits for p in parts]))
    if cameras:
        close(whole.pixel_logits, torch.cat([p.pixel_logits for p in parts]))


@torch.no_grad()
@pytest.mark.parametrize("overlap", ["last", "mean"])
def test_order_of_cameras_does_not_matter(overlap: str) -> None:
    net, batch, order = exact(overlap=overlap), double(camera_batch(0, 1)), torch.tensor([2, 0, 1])
    if overlap == "last":  # then only where no two cameras see the same
        batch = with_visible(batch, batch.visible & (batch.visible.cumsum(0) == 1))
    shuffled = with_cameras_in_order(batch, order)
    close(net(shuffled).logits, net(batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("overlap", ["last", "mean"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_pixel_logits_are_those_of_the_full_image_in_evaluation(
    overlap: str, stem_stride: int
) -> None:
    """Enlarge to the image, BN, ReLU, classify, read at the points (section 4.6), by torch's own operators."""
    net = exact(overlap=overlap, eval_pixels=True, image={"stem_stride": stem_stride})
    batch = double(camera_batch(0, 1))
    kept = []
    decode = net.pix_branch.decode
    net.pix_branch.decode = lambda skips: kept.append(decode(skips)) or kept[0]
    found = net(batch).pixel_logits
    full = F.interpolate(kept[0], SIZE, mode="bilinear", align_corners=True)
    norm, linear = net.classifier_pix.norm, net.classifier_pix.linear
    shape = (1, -1, 1, 1)
    normal = (full - norm.running_mean.view(shape)) / (norm.running_var + norm.eps).sqrt().view(
        shape
    )
    normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
    logits = torch.einsum("nchw,kc->nkhw", normal.relu(), linear.weight)
    expected = torch.zeros_like(found)
    for row, scan in enumerate(batch.coords[:, 0].tolist()):
        seeing = batch.visible[:, row].nonzero()[:, 0].tolist()
        for camera in seeing[-1:] if overlap == "last" else seeing:
            image = logits[3 * scan + camera][None]
            at = batch.pixels[camera, row].double().view(1, 1, 1, 2)
            read = F.grid_sample(image, at, align_corners=True)[0, :, 0, 0]
            expected[row] += read / (1 if overlap == "last" else len(seeing))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.abs().max() > 0.1


# --- what is fed where ----------------------------------------------------------------------------------------------
@torch.no_grad()
def test_fused_points_reach_encoder_and_decoder() -> None:
    """The next stage sees vox(p) and z1 = p + T0(z0), p the fused points (section 4.8, step 8)."""
    net, batch, seen = exact(), double(camera_batch(0)), {}
    lidar = net.lidar
    for i in range(4):
        net.c2l_fusion_blocks[i].register_forward_hook(
            lambda _, inp, out, i=i: seen.update({f"fused{i}": (inp, out)})
        )
        lidar.vox_downs[i].register_forward_hook(
            lambda _, inp, out, i=i: seen.update({f"down{i}": (inp[0], out)})
        )
    lidar.vox_ups[0].register_forward_hook(lambda _, inp, out: seen.update(up=inp[0]))
    lidar.stem.register_forward_hook(lambda _, inp, out: seen.update(stem=out))
    output = net(batch)
    for i in range(4):
        raw, (given, fused) = seen[f"down{i}"][1], seen[f"fused{i}"]
        close(given[0], devoxelize(raw))
        expected = voxel_mean(raw, fused)
        close(output.stages[i].feats, expected.feats)
        if i < 3:
            close(seen[f"down{i + 1}"][0].feats, expected.feats)
    close(output.points, seen["fused3"][0][0])
    z1 = seen["fused3"][1] + lidar.point_transforms[0](seen["stem"].feats)
    close(seen["up"].feats, voxel_mean(output.stages[3].tensor, z1).feats)


@torch.no_grad()
def test_fused_images_reach_encoder_and_pooling() -> None:
    """Each image stage is fed the rectified fusion of the one before; the last fusion follows the pooling."""
    net, batch, seen = exact(eval_pixels=True), double(camera_batch(0)), {}
    for i, block in enumerate(net.l2c_fusion_blocks):
        block.register_forward_hook(lambda _, inp, out, i=i: seen.update({i: (inp, out)}))
    encoder = net.pix_branch.encoder
    for i in range(4):
        layer = getattr(encoder, f"layer{i + 1}")
        layer[0].register_forward_hook(
            lambda _, inp, out, i=i: seen.update({f"layer{i}": inp[0].clone()})
        )
    net.pix_branch.spp.register_forward_hook(lambda _, inp, out: seen.update(spp=out))
    skips = []
    decode = net.pix_branch.decode
    net.pix_branch.decode = lambda s: skips.extend(s) or decode(s)
    net(batch)
    for i in range(3):
        torch.testing.assert_close(seen[f"layer{i + 1}"], seen[i][1][0])
    torch.testing.assert_close(seen[3][0][0], seen["spp"])
    assert all(skip is seen[i][1][1] for i, skip in enumerate(skips))
    assert [seen[i][0][1].shape[2:] for i in range(4)] == [s.shape[2:] for s in skips]
    assert skips[0].shape[2:] == (SIZE[0] // 4, SIZE[1] // 4)


@pytest.mark.parametrize("l2c, c2l", [(True, True), (True, False), (False, True), (False, False)])
def test_which_loss_reaches_which_branch(l2c: bool, c2l: bool) -> None:
    """Image features are not detached on their way into the voxels, nor the points on theirs into the images."""
    net, batch = student(l2c=l2c, c2l=c2l, learner=False).train(), camera_batch(0)

    def touched(value: Tensor) -> set[str]:
        net.zero_grad(set_to_none=True)
        value.square().mean().backward()
        return {
            name.partition(".")[0]
            for name, p in net.named_parameters()
            if p.grad is not None and p.grad.any()
        }

    assert ("pix_branch" in touched(net(batch).logits)) == c2l
    assert ("lidar" in touched(net(batch).pixel_logits)) == l2c


# --- ablations ------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_switches() -> None:
    batch = double(camera_batch(0))
    plain = exact(c2l=False)
    lidar_only = plain.lidar(batch)
    close(plain(batch).logits, lidar_only.logits)  # the image branch is auxiliary
    assert len(plain.c2l_fusion_blocks) == len(plain.learner) == 0
    assert plain(batch).image_features == plain(batch).learned_features == ()
    no_learner = exact(learner=False)
    output, used = run_and_spy(no_learner, batch)
    assert used[1][~batch.visible.any(0)].abs().max() == 0
    assert output.learned_features == ()
    assert no_learner(without_images(batch)).logits.isfinite().all()
    assert len(exact(l2c=False).l2c_fusion_blocks) == 0


def test_wrong_sections() -> None:
    with pytest.raises(
        UserError, match=r"unknown key 'model\.lidar\.dropuot'; did you mean 'dropout'"
    ):
        build_model(
            Config(
                {"model": {"name": "lidar_camera", "lidar": {"name": "spvcnn", "dropuot": 0.1}}}
            ),
            5,
        )
    with pytest.raises(
        UserError, match=r"unknown key 'model\.image\.encodr'; did you mean 'encoder'"
    ):
        build_model(
            Config(
                {
                    "model": {
                        "name": "lidar_camera",
                        "lidar": {"name": "spvcnn"},
                        "image": {"encodr": 1},
                    }
                }
            ),
            5,
        )
    with pytest.raises(UserError, match=r"model\.lidar.*sphereformer"):
        build_model(
            Config({"model": {"name": "lidar_camera", "lidar": {"name": "sphereformer"}}}), 5
        )
    with pytest.raises(UserError, match="does not exist"):
        student(image={"weights": "/nowhere/resnet18.pth"})
    section = {
        "name": "lidar_camera",
        "lidar": {"name": "spvcnn"},
        "image": {"weights": "/nowhere/resnet18.pth"},
    }
    build_model(Config({"model": section}), 5, pretrained=False)
