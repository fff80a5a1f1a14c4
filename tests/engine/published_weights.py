"""Checkpoints as other projects' code names them, from the published tables of keys and layer shapes, random values.

Files are written by torch's own optimiser and schedules, with what else the projects' trainers put beside the weights.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CLASSES = 17
BLOCKS = 4
RESNET18 = ((64, 64), (64, 128), (128, 256), (256, 512))
IMAGE = (64, 128, 256, 128)  # channels of the four skips; the last one is pooled

Weights = dict[str, Tensor]


def widths(cr: float) -> list[int]:
    return [int(cr * c) for c in (32, 32, 64, 128, 256, 256, 128, 96, 96)]


class Maker:
    """Adds layers to a dictionary, in order."""

    def __init__(self, seed: int, scale: float = 0.1) -> None:
        self.weights: Weights = {}
        self.scale = scale
        self.generator = torch.Generator().manual_seed(seed)

    def put(self, key: str, *shape: int) -> None:
        self.weights[key] = self.scale * torch.randn(shape, generator=self.generator)

    def norm(self, path: str, width: int, counted: bool = True) -> None:
        for name in ("weight", "bias"):
            self.put(f"{path}.{name}", width)
        if counted:
            self.put(f"{path}.running_mean", width)
            self.weights[f"{path}.running_var"] = torch.rand(width, generator=self.generator) + 0.5
            self.weights[f"{path}.num_batches_tracked"] = torch.tensor(7)

    def dense(self, path: str, cin: int, cout: int, *kernel: int, bias: bool = True) -> None:
        self.put(f"{path}.weight", cout, cin, *kernel)
        if bias:
            self.put(f"{path}.bias", cout)

    def conv_norm(self, conv: str, norm: str, *shape: int) -> None:
        self.put(f"{conv}.kernel", *shape)
        self.norm(norm, shape[-1])

    def residual(self, path: str, cin: int, cout: int) -> None:
        self.conv_norm(f"{path}.net.0", f"{path}.net.1", 27, cin, cout)
        self.conv_norm(f"{path}.net.3", f"{path}.net.4", 27, cout, cout)
        if cin != cout:
            self.conv_norm(f"{path}.downsample.0", f"{path}.downsample.1", cin, cout)

    def lidar(self, cs: list[int]) -> None:
        self.sparse_unet(cs, "vox_downs.{0}", "vox_ups.{0}")
        for i in range(BLOCKS):
            self.attention(f"transformer_blocks.{i}", cs[i + 1])
        self.point_transforms(cs)
        self.dense("classifier_vox.0", cs[8], CLASSES)

    def sparse_unet(self, cs: list[int], down: str, up: str) -> None:
        """Stem, stages down and up; a stage is named by its number from 0 and from 1."""
        self.conv_norm("stem.0", "stem.1", 27, 4, cs[0])
        self.conv_norm("stem.3", "stem.4", 27, cs[0], cs[0])
        for i in range(BLOCKS):
            path = down.format(i, i + 1)
            self.conv_norm(f"{path}.0.net.0", f"{path}.0.net.1", 8, cs[i], cs[i])
            self.residual(f"{path}.1", cs[i], cs[i + 1])
            self.residual(f"{path}.2", cs[i + 1], cs[i + 1])
        for i, (cin, cout, skip) in enumerate(zip(cs[4:8], cs[5:], (cs[3], cs[2], cs[1], cs[0]))):
            path = up.format(i, i + 1)
            self.conv_norm(f"{path}.0.net.0", f"{path}.0.net.1", 8, cin, cout)
            self.residual(f"{path}.1.0", cout + skip, cout)
            self.residual(f"{path}.1.1", cout, cout)

    def point_transforms(self, cs: list[int]) -> None:
        for i, (cin, cout) in enumerate(((cs[0], cs[4]), (cs[4], cs[6]), (cs[6], cs[8]))):
            self.dense(f"point_transforms.{i}.0", cin, cout)
            self.norm(f"point_transforms.{i}.1", cout)

    def spconv(self, path: str, cin: int, cout: int, kernel: int) -> None:
        self.put(f"{path}.weight", cout, kernel, kernel, kernel, cin)

    def classifier(self, path: str, cin: int, classes: int) -> None:
        self.dense(f"{path}.0", cin, 128)
        self.dense(f"{path}.2", 128, classes)

    def attention(self, path: str, width: int) -> None:
        heads = width // 16
        for part, length, count in (("", 47, heads // 2), ("_sphere", 48, heads - heads // 2)):
            for name in ("query", "key", "value") if count else ():
                self.put(f"{path}.attn.relative_pos_{name}_table{part}", length, 3, count, 16)
        for name in ("norm1", "norm2"):
            self.norm(f"{path}.{name}", width, counted=False)
        for name, cin, cout in (
            ("attn.qkv", width, 3 * width), ("attn.proj", width, width),
            ("mlp.fc1", width, 4 * width), ("mlp.fc2", 4 * width, width),
        ):  # fmt: skip
            self.dense(f"{path}.{name}", cin, cout)

    def norm_conv(self, path: str, cin: int, cout: int, kernel: int = 1) -> None:
        self.norm(f"{path}.norm", cin)
        self.dense(f"{path}.conv", cin, cout, kernel, kernel, bias=False)

    def resnet18(self, root: str) -> None:
        self.dense(f"{root}.conv1", 3, 64, 7, 7, bias=False)
        self.norm(f"{root}.bn1", 64)
        for i, (cin, cout) in enumerate(RESNET18, 1):
            for j in range(2):
                path, first = f"{root}.layer{i}.{j}", cin if j == 0 else cout
                self.dense(f"{path}.conv1", first, cout, 3, 3, bias=False)
                self.norm(f"{path}.bn1", cout)
                self.dense(f"{path}.conv2", cout, cout, 3, 3, bias=False)
                self.norm(f"{path}.bn2", cout)
                if first != cout:
                    self.dense(f"{path}.downsample.0", first, cout, 1, 1, bias=False)
                    self.norm(f"{path}.downsample.1", cout)

    def image(self, swapped: bool = False, back: bool = False) -> None:
        self.resnet18("pix_branch")
        self.norm_conv("pix_branch.pool.first", 512, 128)
        for i in range(3):
            self.norm_conv(f"pix_branch.pool.level{i}", 128, 42)
        self.norm_conv("pix_branch.pool.last", 254, 128)
        skips = (64, 128, 256) if back else (256, 128, 64)
        for i, skip in enumerate(skips):
            blocks = [
                (f"pix_branch.up.{i}.lateral", skip, 128, 1),
                (f"pix_branch.up.{i}.out", 128, 128, 3),
            ]
            for path, cin, cout, kernel in reversed(blocks) if swapped else blocks:
                self.norm_conv(path, cin, cout, kernel)

    def fusion(self, i: int, ic: int, pc: int) -> None:
        gate = f"c2l_fusion_blocks.{i}.ai_layer"
        self.dense(
            f"{gate}.conv1.0", ic, pc, 1
        )  # a convolution over points is the linear layer it is
        self.norm(f"{gate}.conv1.1", pc)
        self.norm(f"{gate}.fc1.0", ic)
        self.dense(f"{gate}.fc1.2", ic, pc // 4)
        self.dense(f"{gate}.fc2", pc, pc // 4)
        self.dense(f"{gate}.fc3", pc // 4, 1)
        self.dense(f"c2l_fusion_blocks.{i}.conv1", 2 * pc, pc, 1)
        self.norm(f"c2l_fusion_blocks.{i}.bn1", pc)
        gate = f"l2c_fusion_blocks.{i}.l2c_ai_layer"
        self.dense(f"{gate}.conv1.0", pc, ic, 1, 1)
        self.norm(f"{gate}.conv1.1", ic)
        for name, cin, cout in (("fc1", ic, ic // 4), ("fc2", pc, ic // 4), ("fc3", ic // 4, 1)):
            self.dense(f"{gate}.{name}", cin, cout, 1, 1)
        self.dense(f"l2c_fusion_blocks.{i}.conv1", 2 * ic, ic, 1, 1)
        self.norm(f"l2c_fusion_blocks.{i}.bn1", ic)
        self.dense(f"learner.{i}.0", pc, ic)
        self.norm(f"learner.{i}.1", ic)
        self.dense(f"learner.{i}.3", ic, ic)
        self.norm(f"learner.{i}.4", ic)


def teacher_weights(cr: float, seed: int = 0) -> Weights:
    """A stage-1 network, without prefix."""
    maker = Maker(seed)
    maker.lidar(widths(cr))
    return maker.weights


def student_weights(cr: float, teacher_cr: float, seed: int = 1, **decoder: bool) -> Weights:
    """A stage-2 student, without prefix."""
    maker, cs = Maker(seed), widths(cr)
    maker.lidar(cs)
    maker.image(**decoder)
    for i, ic in enumerate(IMAGE):
        maker.fusion(i, ic, cs[i + 1])
    maker.dense("adapt_layer.0", cs[4], widths(teacher_cr)[4])
    maker.norm("adapt_layer.1", widths(teacher_cr)[4])
    maker.norm("classifier_pix.norm", 128)
    maker.dense("classifier_pix.conv", 128, CLASSES, 1, 1, bias=False)
    return maker.weights


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


# --- spvnas, and the torchsparse networks of 2DPASS -------------------------------------------------------------------
def torchsparse_weights(cr: float, classes: int, seed: int = 2) -> Weights:
    """MinkUNet or SPVCNN: the former holds a point branch too, which it does not run."""
    maker, cs = Maker(seed), widths(cr)
    maker.sparse_unet(cs, "stage{1}", "up{1}")
    maker.dense("classifier.0", cs[8], classes)
    maker.point_transforms(cs)
    return maker.weights


# --- 2DPASS -----------------------------------------------------------------------------------------------------------
def twodpass_weights(width: int, scales: int, classes: int, training: bool = True) -> Weights:
    """The LiDAR network, and with ``training`` the image network (a ResNet-18 here) and the fusion."""
    maker = Maker(3, scale=0.5)
    maker.dense("model_3d.voxel_3d_generator.PPmodel.0", 10, width)
    maker.dense("model_3d.voxel_3d_generator.PPmodel.2", width, width)
    for i in range(scales):
        twodpass_encoder(maker, f"model_3d.spv_enc.{i}", width)
    maker.classifier("model_3d.classifier", scales * width, classes)
    maker.put("model_3d.criterion.ce_loss.weight", classes)
    if training:
        twodpass_images(maker, width)
        twodpass_fusion(maker, width, scales, classes)
    return maker.weights


def twodpass_encoder(maker: Maker, path: str, width: int) -> None:
    for j in range(2):
        block = f"{path}.v_enc.{j}"
        maker.spconv(f"{block}.layers_in.0", width, width, 1)
        maker.norm(f"{block}.layers_in.1", width)
        for conv in (0, 3):
            maker.spconv(f"{block}.layers.{conv}", width, width, 3)
            maker.norm(f"{block}.layers.{conv + 1}", width)
    half = width // 2
    maker.dense(f"{path}.p_enc.layer_in.0", width, width)
    for layer, cin, cout in ((0, width, half), (3, half, half), (6, half, width)):
        maker.dense(f"{path}.p_enc.PPmodel.{layer}", cin, cout)
    for layer in (2, 5):
        maker.norm(f"{path}.p_enc.PPmodel.{layer}", half)
    maker.dense(f"{path}.p_enc.layer_out.0", 2 * width, width)
    maker.dense(f"{path}.p_enc.layer_out.2", width, width)


def twodpass_images(maker: Maker, width: int) -> None:
    maker.resnet18("model_2d")
    for k, (cin, first) in enumerate(((64, width), (128, width), (256, 64), (512, 64)), 1):
        maker.dense(f"model_2d.deconv_layer{k}.0", cin, first, 7, 7, bias=False)
    for path, cout in (("3.2", width), ("4.2", 64), ("4.4", width)):
        maker.put(f"model_2d.deconv_layer{path}.weight", 64, cout, 3, 3)
        maker.put(f"model_2d.deconv_layer{path}.bias", cout)


def twodpass_fusion(maker: Maker, width: int, scales: int, classes: int) -> None:
    for i in range(scales):
        maker.classifier(f"fusion.multihead_3d_classifier.{i}", width, classes)
        maker.classifier(f"fusion.multihead_fuse_classifier.{i}", width, classes)
        maker.dense(f"fusion.leaners.{i}.0", width, width)
        maker.dense(f"fusion.fcs1.{i}.0", 2 * width, width)
        maker.dense(f"fusion.fcs2.{i}.0", width, width)
    maker.classifier("fusion.classifier", scales * width, classes)
    maker.put("fusion.seg_loss.ce_loss.weight", classes)


# --- SphereFormer -----------------------------------------------------------------------------------------------------
def sphereformer_weights(layers: tuple[int, ...], classes: int) -> Weights:
    """Its own U-Net, each level inside the one above."""
    maker = Maker(4)
    maker.spconv("input_conv.0", 4, layers[0], 3)
    for level, width in enumerate(layers):
        path = "unet." + level * "u."
        for j in range(2):
            preactivation(maker, f"{path}blocks.block{j}", width, width)
        maker.attention(f"{path}transformer_block", width)
        if level + 1 < len(layers):
            below = layers[level + 1]
            for name, cin, cout in (("conv", width, below), ("deconv", below, width)):
                maker.norm(f"{path}{name}.0", cin)
                maker.spconv(f"{path}{name}.2", cin, cout, 2)
            preactivation(maker, f"{path}blocks_tail.block0", 2 * width, width)
            preactivation(maker, f"{path}blocks_tail.block1", width, width)
    maker.norm("output_layer.0", layers[0])
    maker.dense("linear", layers[0], classes)
    return maker.weights


def preactivation(maker: Maker, path: str, cin: int, cout: int) -> None:
    maker.norm(f"{path}.conv_branch.0", cin)
    maker.spconv(f"{path}.conv_branch.2", cin, cout, 3)
    maker.norm(f"{path}.conv_branch.3", cout)
    maker.spconv(f"{path}.conv_branch.5", cout, cout, 3)
    if cin != cout:
        maker.spconv(f"{path}.i_branch.0", cin, cout, 1)


def without_attention(weights: Weights) -> Weights:
    """The same with blocks that add nothing: the last layer of each branch is zero."""
    quiet = dict(weights)
    for name, tensor in weights.items():
        if ".attn.proj." in name or ".mlp.fc2." in name:
            quiet[name] = torch.zeros_like(tensor)
    return quiet


# --- files ------------------------------------------------------------------------------------------------------------
def trainer_file(weights: Weights, path: Path) -> Path:
    """As U2MKD's and spvnas's trainers write: torch's SGD, a schedule of NumPy's numbers."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.24, momentum=0.9, nesterov=True)
    cosine = lambda step: 0.5 * (1 + np.cos(np.pi * step / 10))  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=cosine)
    parameter.square().sum().backward()
    optimizer.step()
    scheduler.step()
    state = {
        "model": weights,
        "scaler": {},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch_num": 25,
        "global_step": 7,
    }
    assert type(state["scheduler"]["_last_lr"][0]) is np.float64
    torch.save(state, path)
    return path


def lightning_file(weights: Weights, path: Path) -> Path:
    """As Lightning writes: options of a class that is not installed, callbacks by their class."""
    module = types.ModuleType("absent_library")
    for name in ("EasyDict", "ModelCheckpoint"):
        setattr(module, name, type(name, (dict,), {"__module__": module.__name__}))
    sys.modules[module.__name__] = module
    state = {
        "epoch": 3,
        "pytorch-lightning_version": "1.3.8",
        "state_dict": weights,
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.tensor(0.7)}},
        "hyper_parameters": module.EasyDict(model_params=module.EasyDict(hiden_size=64)),
    }
    torch.save(state, path)
    del sys.modules[module.__name__]
    return path


def parallel_file(weights: Weights, path: Path) -> Path:
    """As SphereFormer writes: names below ``module.``, its best score a number of NumPy."""
    state = {"epoch": 50, "state_dict": prefixed(weights, "module."), "best_iou": np.float64(0.7)}
    torch.save(state, path)
    return path
