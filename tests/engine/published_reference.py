"""The published networks spelt out in float64 on dense grids, by their authors' own names of the weights.

One scan; voxels are rows of ``coords`` i64 [V, 3] (x, y, z), not negative. A sparse convolution is ``conv3d`` on the
grid, read at the occupied cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
BOX = torch.tensor([[0.0, 0, 0], [1.6, 1.6, 1.2], [16, 16, 12]], dtype=torch.float64)


def unique(coords: Tensor) -> tuple[Tensor, Tensor]:
    return torch.unique(coords, dim=0, return_inverse=True)


def mean_by(values: Tensor, group: Tensor) -> Tensor:
    groups = int(group.max()) + 1
    total = values.new_zeros(groups, values.shape[1]).index_add_(0, group, values)
    return total / torch.bincount(group, minlength=groups)[:, None]


def dense_weight(weight: Tensor) -> Tensor:
    """spconv's [out, z, y, x, in] or torchsparse's [k^3, in, out] as conv3d's [out, in, x, y, z]."""
    if weight.dim() == 5:
        return weight.permute(0, 4, 3, 2, 1)
    if len(weight) == 27:  # x runs fastest
        return weight.view(3, 3, 3, *weight.shape[1:]).permute(4, 3, 2, 1, 0)
    return weight.view(2, 2, 2, *weight.shape[1:]).permute(4, 3, 0, 1, 2)  # z runs fastest


class Net:
    """Layers by the names of their weights."""

    def __init__(self, weights: Weights, eps: float = 1e-5) -> None:
        self.weights = {name: w.double() for name, w in weights.items()}
        self.eps = eps

    def norm(self, path: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            self.weights[f"{path}.{name}"]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + self.eps).sqrt() * scale + shift

    def linear(self, path: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{path}.weight"].T + self.weights[f"{path}.bias"]

    def mlp(self, path: str, x: Tensor) -> Tensor:
        return self.linear(f"{path}.2", self.linear(f"{path}.0", x).relu())

    def conv(self, name: str, x: Tensor, coords: Tensor, out: Tensor | None = None) -> Tensor:
        """Submanifold; with ``out`` strided by 2 from ``coords`` to those."""
        weight = self.weights[name]
        if weight.dim() == 2:
            return x @ weight
        if weight.shape[1:4] == (1, 1, 1):
            return x @ weight[:, 0, 0, 0].T
        size = [2 * (int(top) // 2 + 1) for top in coords.max(0).values]
        grid = x.new_zeros(1, x.shape[1], *size)
        grid[0, :, *coords.T] = x.T
        if out is None:
            return F.conv3d(grid, dense_weight(weight), padding=1)[0, :, *coords.T].T
        return F.conv3d(grid, dense_weight(weight), stride=2)[0, :, *out.T].T

    def conv_back(self, name: str, x: Tensor, coords: Tensor, out: Tensor) -> Tensor:
        """Transposed by 2, from ``coords`` to the finer ``out``."""
        grid = x.new_zeros(1, x.shape[1], *(int(top) + 1 for top in coords.max(0).values))
        grid[0, :, *coords.T] = x.T
        weight = dense_weight(self.weights[name]).transpose(0, 1)
        return F.conv_transpose3d(grid, weight, stride=2)[0, :, *out.T].T


# --- MinkUNet and SPVCNN ----------------------------------------------------------------------------------------------
class Sparse(Net):
    """Torchsparse's U-Nets; ``down`` and ``up`` name their stages by numbers from 0 and from 1."""

    def __init__(self, weights: Weights, down: str, up: str, head: str) -> None:
        super().__init__(weights)
        self.down, self.up, self.head = down, up, head

    def block(self, conv: str, norm: str, x: Tensor, *coords: Tensor) -> Tensor:
        return self.norm(norm, self.conv(f"{conv}.kernel", x, *coords)).relu()

    def residual(self, path: str, x: Tensor, coords: Tensor) -> Tensor:
        main = self.block(f"{path}.net.0", f"{path}.net.1", x, coords)
        main = self.norm(f"{path}.net.4", self.conv(f"{path}.net.3.kernel", main, coords))
        if f"{path}.downsample.0.kernel" in self.weights:
            x = self.conv(f"{path}.downsample.0.kernel", x, coords)
            x = self.norm(f"{path}.downsample.1", x)
        return (main + x).relu()

    def run(self, feats: Tensor, coords: Tensor, points: bool) -> Tensor:
        """Logits [V, classes]; with ``points`` the point branch of SPVCNN."""
        levels = [coords]
        x = self.block("stem.0", "stem.1", feats, coords)
        x = self.block("stem.3", "stem.4", x, coords)
        z, skips = x, [x]
        for i in range(4):
            path = self.down.format(i, i + 1)
            levels.append(unique(levels[-1] // 2)[0])
            x = self.block(f"{path}.0.net.0", f"{path}.0.net.1", x, levels[-2], levels[-1])
            x = self.residual(f"{path}.1", x, levels[-1])
            x = self.residual(f"{path}.2", x, levels[-1])
            skips.append(x)
        for i in range(4):
            if points and i in (0, 2):
                z = self.points(i // 2, z, x, coords, levels, 4 - i)
                x = mean_by(z, unique(coords // 2 ** (4 - i))[1])
            path, fine = self.up.format(i, i + 1), levels[3 - i]
            x = self.conv_back(f"{path}.0.net.0.kernel", x, levels[4 - i], fine)
            x = torch.cat([self.norm(f"{path}.0.net.1", x).relu(), skips[3 - i]], 1)
            x = self.residual(f"{path}.1.0", x, fine)
            x = self.residual(f"{path}.1.1", x, fine)
        if points:
            x = self.points(2, z, x, coords, levels, 0)
        return self.linear(f"{self.head}.0", x)

    def points(
        self, i: int, z: Tensor, x: Tensor, coords: Tensor, levels: list[Tensor], level: int
    ) -> Tensor:
        """The points' features after the i-th join: read trilinearly from the voxels, plus their own layer."""
        path = f"point_transforms.{i}"
        own = self.norm(f"{path}.1", self.linear(f"{path}.0", z)).relu()
        return trilinear(x, levels[level], coords, 2**level) + own


def trilinear(x: Tensor, cells: Tensor, coords: Tensor, stride: int) -> Tensor:
    """Between the corners of the cell that a point lies in; absent cells do not count."""
    place = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
    result = x.new_zeros(len(coords), x.shape[1])
    for row, point in enumerate(coords.tolist()):
        total = 0.0
        for corner in range(8):
            step = [corner >> axis & 1 for axis in range(3)]
            weight = 1.0
            for value, one in zip(point, step):
                fraction = value % stride / stride
                weight *= fraction if one else 1 - fraction
            cell = place.get(tuple(value // stride + one for value, one in zip(point, step)))
            if cell is not None and weight:
                result[row] += weight * x[cell]
                total += weight
        result[row] /= total
    return result


# --- SphereFormer without attention -----------------------------------------------------------------------------------
class UNet(Net):
    """SphereFormer's U-Net, whose attention blocks add nothing here."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights, eps=1e-4)

    def residual(self, path: str, x: Tensor, coords: Tensor) -> Tensor:
        main = self.norm(f"{path}.conv_branch.0", x).relu()
        main = self.conv(f"{path}.conv_branch.2.weight", main, coords)
        main = self.norm(f"{path}.conv_branch.3", main).relu()
        main = self.conv(f"{path}.conv_branch.5.weight", main, coords)
        if f"{path}.i_branch.0.weight" in self.weights:
            x = self.conv(f"{path}.i_branch.0.weight", x, coords)
        return main + x

    def level(self, path: str, x: Tensor, coords: Tensor) -> Tensor:
        for j in range(2):
            x = self.residual(f"{path}blocks.block{j}", x, coords)
        if f"{path}conv.2.weight" not in self.weights:
            return x
        coarse = unique(coords // 2)[0]
        below = self.norm(f"{path}conv.0", x).relu()
        below = self.conv(f"{path}conv.2.weight", below, coords, coarse)
        below = self.level(f"{path}u.", below, coarse)
        raised = self.norm(f"{path}deconv.0", below).relu()
        raised = self.conv_back(f"{path}deconv.2.weight", raised, coarse, coords)
        x = torch.cat([x, raised], 1)
        for j in range(2):
            x = self.residual(f"{path}blocks_tail.block{j}", x, coords)
        return x

    def run(self, feats: Tensor, coords: Tensor) -> Tensor:
        """Logits [V, classes without class 0]."""
        x = self.level("unet.", self.conv("input_conv.0.weight", feats, coords), coords)
        return self.linear("linear", self.norm("output_layer.0", x).relu())


# --- 2DPASS -----------------------------------------------------------------------------------------------------------
class Points(Net):
    """2DPASS's LiDAR network, on points in the box ``BOX`` (low, high, cells)."""

    def cells(self, xyz: Tensor, scale: int) -> Tensor:
        low, high, shape = BOX
        return torch.floor(torch.ceil(shape / scale) * (xyz - low) / (high - low)).long()

    def residual(self, path: str, x: Tensor, coords: Tensor) -> Tensor:
        main = self.conv(f"{path}.layers.0.weight", x, coords)
        main = F.leaky_relu(self.norm(f"{path}.layers.1", main), 0.1)
        main = self.norm(f"{path}.layers.4", self.conv(f"{path}.layers.3.weight", main, coords))
        short = self.norm(f"{path}.layers_in.1", self.conv(f"{path}.layers_in.0.weight", x, coords))
        return F.leaky_relu(main + short, 0.1)

    def context(self, path: str, u: Tensor, coords: Tensor) -> Tensor:
        parent = unique(coords // 2)[1]
        x = mean_by(u, parent)
        for i in (0, 3, 6):
            x = F.leaky_relu(self.linear(f"{path}.{i}", x), 0.1)
            if i < 6:
                x = self.norm(f"{path}.{i + 2}", x)
        return x[parent]

    def run(self, feats: Tensor, scales: tuple[int, ...]) -> Tensor:
        """Logits [P, classes] of points f64 [P, 4]."""
        xyz = feats[:, :3]
        low, high, shape = BOX
        coords, rows = unique(self.cells(xyz, 1))
        corner = coords[rows] * (high - low) / shape + low
        inputs = torch.cat([feats, xyz - mean_by(xyz, rows)[rows], xyz - corner], 1)
        x = mean_by(self.mlp("model_3d.voxel_3d_generator.PPmodel", inputs), rows)
        heads = []
        for i, scale in enumerate(scales):
            path = f"model_3d.spv_enc.{i}"
            v = self.residual(
                f"{path}.v_enc.1", self.residual(f"{path}.v_enc.0", x, coords), coords
            )
            u = x + v
            own = F.leaky_relu(self.linear(f"{path}.p_enc.layer_in.0", u), 0.1)
            both = torch.cat([own, self.context(f"{path}.p_enc.PPmodel", u, coords)], 1)[rows]
            merged = F.leaky_relu(self.linear(f"{path}.p_enc.layer_out.0", both), 0.1)
            merged = self.linear(f"{path}.p_enc.layer_out.2", merged)
            down = v[rows]
            coords, rows = unique(self.cells(xyz, scale))
            p = mean_by(merged, rows)
            x = p + mean_by(down, rows)
            heads.append(p[rows])
        return self.mlp("model_3d.classifier", torch.cat(heads, 1))
