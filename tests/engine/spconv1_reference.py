"""Cylinder3D with published names on a literal spconv 1: neighbours by key, whatever the kernel that asks for them.

Written from the description of the network and of the fault: a convolution looks for its key; if another one has left
neighbours under it, it takes those, tap by tap, as many as there are.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Triple = tuple[int, int, int]
Rows = dict[tuple[int, ...], int]  # coordinates (b, x, y, z) -> row
Taps = list[tuple[list[int], list[int]]]  # of each tap, the input and the output rows

A, B, C = (1, 3, 3), (3, 1, 3), (3, 3, 3)
STEPS = ((2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))
SEG = "cylinder_3d_spconv_seg."
GEN = "cylinder_3d_generator."


def published_weights(s: int, entering: int, points: int, classes: int) -> Weights:
    """The 274 tensors in spconv 1's layout; of the up blocks' cubes, the taps behind the ninth are NaN."""
    generator = torch.Generator().manual_seed(0)
    made: Weights = {}

    def put(name: str, *shape: int) -> None:
        made[name] = 0.5 * torch.randn(shape, generator=generator)

    def norm(path: str, width: int) -> None:
        put(f"{path}.bias", width)
        for name in ("weight", "running_var"):
            made[f"{path}.{name}"] = torch.rand(width, generator=generator) + 0.5
        put(f"{path}.running_mean", width)
        made[f"{path}.num_batches_tracked"] = torch.tensor(7)

    def linear(path: str, cin: int, cout: int) -> None:
        put(f"{path}.weight", cout, cin)
        put(f"{path}.bias", cout)

    def block(path: str, cin: int, cout: int, kernels: tuple[Triple, ...]) -> None:
        names = (("conv1", "bn0"), ("conv1_2", "bn0_2"), ("conv2", "bn1"), ("conv3", "bn2"))
        for (conv, bn), kernel, width in zip(names, kernels, (cin, cout, cin, cout)):
            put(f"{path}.{conv}.weight", *kernel, width, cout)
            norm(f"{path}.{bn}", cout)

    widths = (9, 64, 128, 256, points)
    norm(f"{GEN}PPmodel.0", 9)
    for place, cin, cout in zip((1, 4, 7, 10), widths, widths[1:]):
        linear(f"{GEN}PPmodel.{place}", cin, cout)
        made[f"{GEN}PPmodel.{place}.weight"] *= cin**-0.5
        if place < 10:
            norm(f"{GEN}PPmodel.{place + 1}", cout)
    linear(f"{GEN}fea_compression.0", points, entering)
    block(f"{SEG}downCntx", entering, s, (A, B, B, A))
    for i in range(4):
        path, cin, cout = f"{SEG}resBlock{i + 2}", s << i, s << (i + 1)
        block(path, cin, cout, (B, A, A, B))
        put(f"{path}.pool.weight", *C, cout, cout)
    for i, (cin, cout) in enumerate(((16, 16), (16, 8), (8, 4), (4, 2))):
        path, cin, cout = f"{SEG}upBlock{i}", cin * s, cout * s
        put(f"{path}.trans_dilao.weight", *C, cin, cout)
        norm(f"{path}.trans_bn", cout)
        put(f"{path}.up_subm.weight", *C, cout, cout)
        for number, kernel in enumerate((A, B, C), 1):
            put(f"{path}.conv{number}.weight", *kernel, cout, cout)
            norm(f"{path}.bn{number}", cout)
        made[f"{path}.conv3.weight"][1:] = torch.nan
    for name, kernel in (("", (3, 1, 1)), ("_2", (1, 3, 1)), ("_3", (1, 1, 3))):
        put(f"{SEG}ReconNet.conv1{name}.weight", *kernel, 2 * s, 2 * s)
        norm(f"{SEG}ReconNet.bn0{name}", 2 * s)
    put(f"{SEG}logits.weight", *C, 4 * s, classes)
    put(f"{SEG}logits.bias", classes)
    for weight in made.values():
        if weight.dim() == 5:
            weight *= (2 / (9 * weight.shape[3])) ** 0.5
    return made


class Spconv1:
    """The network in float64.

    Args:
        shared: convolutions of a block have one key; else each has its own.
    """

    def __init__(self, weights: Weights, sizes: Triple, *, shared: bool) -> None:
        self.weights = {name: weight.double() for name, weight in weights.items()}
        self.sizes, self.shared = sizes, shared
        self.books: dict[str, Taps] = {}

    # --- spconv ---
    def subm(self, path: str, x: Tensor, rows: Rows, key: str) -> Tensor:
        weight = self.weights[f"{SEG}{path}.weight"]
        key = key if self.shared else path
        if key not in self.books:
            half = [length // 2 for length in weight.shape[:3]]
            book: Taps = []
            for tap in product(*map(range, weight.shape[:3])):
                pairs: tuple[list[int], list[int]] = ([], [])
                for (b, *place), row in rows.items():
                    other = (b, *(p - h + t for p, h, t in zip(place, half, tap)))
                    if other in rows:
                        pairs[0].append(rows[other])
                        pairs[1].append(row)
                book.append(pairs)
            self.books[key] = book
        return self._apply(self.books[key], x, weight, len(rows))

    def pool(self, path: str, x: Tensor, rows: Rows, sizes: Triple, step: Triple):
        weight = self.weights[f"{SEG}{path}.weight"]
        coarse: Rows = {}
        book: Taps = []
        for tap in product(range(3), repeat=3):
            pairs: tuple[list[int], list[int]] = ([], [])
            for (b, *place), row in rows.items():
                starts = [p + 1 - t for p, t in zip(place, tap)]
                outs = [start // pace for start, pace in zip(starts, step)]
                whole = all(start % pace == 0 for start, pace in zip(starts, step))
                if whole and all(0 <= out < size for out, size in zip(outs, sizes)):
                    pairs[0].append(row)
                    pairs[1].append(coarse.setdefault((b, *outs), len(coarse)))
            book.append(pairs)
        return self._apply(book, x, weight, len(coarse)), coarse, book

    def inverse(self, path: str, x: Tensor, book: Taps, count: int) -> Tensor:
        turned = [(outs, ins) for ins, outs in book]
        return self._apply(turned, x, self.weights[f"{SEG}{path}.weight"], count)

    @staticmethod
    def _apply(book: Taps, x: Tensor, weight: Tensor, count: int) -> Tensor:
        filters = weight.reshape(-1, *weight.shape[3:])
        y = x.new_zeros(count, weight.shape[4])
        for filter_, (ins, outs) in zip(filters, book):
            y.index_add_(0, torch.tensor(outs, dtype=torch.long), x[ins] @ filter_)
        return y

    # --- layers ---
    def norm(self, path: str, x: Tensor) -> Tensor:
        w = self.weights
        mean, var = w[f"{path}.running_mean"], w[f"{path}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{path}.weight"], w[f"{path}.bias"])

    def act(self, block: str, conv: str, bn: str, x: Tensor, rows: Rows, key: str) -> Tensor:
        y = self.subm(f"{block}.{conv}", x, rows, key)
        return self.norm(f"{SEG}{block}.{bn}", F.leaky_relu(y, 0.01))

    def residual(self, block: str, x: Tensor, rows: Rows, key: str) -> Tensor:
        first = self.act(block, "conv1", "bn0", x, rows, key)
        first = self.act(block, "conv1_2", "bn0_2", first, rows, key)
        second = self.act(block, "conv2", "bn1", x, rows, key)
        return first + self.act(block, "conv3", "bn2", second, rows, key)

    def linear(self, path: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{path}.weight"], self.weights[f"{path}.bias"])

    def points(self, x: Tensor, of_point: Tensor, cells: int) -> Tensor:
        """Values [P, 9] of points -> features of the cells."""
        x = self.norm(f"{GEN}PPmodel.0", x)
        for place in (1, 4, 7):
            x = F.relu(
                self.norm(f"{GEN}PPmodel.{place + 1}", self.linear(f"{GEN}PPmodel.{place}", x))
            )
        x = self.linear(f"{GEN}PPmodel.10", x)
        most = torch.stack([x[of_point == cell].max(0).values for cell in range(cells)])
        return F.relu(self.linear(f"{GEN}fea_compression.0", most))

    def run(self, values: Tensor, of_point: Tensor, coords: Tensor) -> Tensor:
        """Logits [V, classes] of cells i32 [V, 4]."""
        rows: Rows = {tuple(place): row for row, place in enumerate(coords.tolist())}
        x = self.residual("downCntx", self.points(values, of_point, len(rows)), rows, "prebef")
        sizes, levels = self.sizes, []
        for i, step in enumerate(STEPS):
            skip = self.residual(f"resBlock{i + 2}", x, rows, f"down{i + 2}bef")
            sizes = tuple((size - 1) // pace + 1 for size, pace in zip(sizes, step))
            x, coarse, book = self.pool(f"resBlock{i + 2}.pool", skip, rows, sizes, step)
            levels.append((skip, rows, book))
            rows = coarse
        for i, (skip, fine, book) in enumerate(reversed(levels)):
            block = f"upBlock{i}"
            x = self.act(block, "trans_dilao", "trans_bn", x, rows, f"{block}.trans_dilao")
            x = self.inverse(f"{block}.up_subm", x, book, len(fine)) + skip
            rows = fine
            for number in (1, 2, 3):
                x = self.act(block, f"conv{number}", f"bn{number}", x, rows, f"up{i}")
        gates = torch.zeros_like(x)
        for end in ("", "_2", "_3"):
            y = self.subm(f"ReconNet.conv1{end}", x, rows, "reconbef")
            gates = gates + torch.sigmoid(self.norm(f"{SEG}ReconNet.bn0{end}", y))
        x = torch.cat([gates * x, x], 1)
        return self.subm("logits", x, rows, "logits") + self.weights[f"{SEG}logits.bias"]
