"""Checkpoints as U2MKD's own code names them, from the published table of keys and layer shapes, with random values."""

from __future__ import annotations

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

    def __init__(self, seed: int) -> None:
        self.weights: Weights = {}
        self.generator = torch.Generator().manual_seed(seed)

    def put(self, key: str, *shape: int) -> None:
        self.weights[key] = 0.1 * torch.randn(shape, generator=self.generator)

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
        self.conv_norm("stem.0", "stem.1", 27, 4, cs[0])
        self.conv_norm("stem.3", "stem.4", 27, cs[0], cs[0])
        for i in range(BLOCKS):
            self.conv_norm(f"vox_downs.{i}.0.net.0", f"vox_downs.{i}.0.net.1", 8, cs[i], cs[i])
            self.residual(f"vox_downs.{i}.1", cs[i], cs[i + 1])
            self.residual(f"vox_downs.{i}.2", cs[i + 1], cs[i + 1])
            self.attention(f"transformer_blocks.{i}", cs[i + 1])
        for i, (cin, cout, skip) in enumerate(zip(cs[4:8], cs[5:], (cs[3], cs[2], cs[1], cs[0]))):
            self.conv_norm(f"vox_ups.{i}.0.net.0", f"vox_ups.{i}.0.net.1", 8, cin, cout)
            self.residual(f"vox_ups.{i}.1.0", cout + skip, cout)
            self.residual(f"vox_ups.{i}.1.1", cout, cout)
        for i, (cin, cout) in enumerate(((cs[0], cs[4]), (cs[4], cs[6]), (cs[6], cs[8]))):
            self.dense(f"point_transforms.{i}.0", cin, cout)
            self.norm(f"point_transforms.{i}.1", cout)
        self.dense("classifier_vox.0", cs[8], CLASSES)

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

    def image(self, swapped: bool = False, back: bool = False) -> None:
        self.dense("pix_branch.conv1", 3, 64, 7, 7, bias=False)
        self.norm("pix_branch.bn1", 64)
        for i, (cin, cout) in enumerate(RESNET18, 1):
            for j in range(2):
                path, first = f"pix_branch.layer{i}.{j}", cin if j == 0 else cout
                self.dense(f"{path}.conv1", first, cout, 3, 3, bias=False)
                self.norm(f"{path}.bn1", cout)
                self.dense(f"{path}.conv2", cout, cout, 3, 3, bias=False)
                self.norm(f"{path}.bn2", cout)
                if first != cout:
                    self.dense(f"{path}.downsample.0", first, cout, 1, 1, bias=False)
                    self.norm(f"{path}.downsample.1", cout)
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
