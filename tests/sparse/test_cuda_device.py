"""The GPU engine on a GPU: every operation against float64, whole networks against the CPU, and no waiting."""

from __future__ import annotations

import pytest
import torch
from sparse_scene import scene
from torch import Tensor

from core.contracts import Batch
from core.models.lidar.minkunet import MinkUNet
from core.sparse import Conv3d, MapCache, SparseTensor, convolve, kernel_map
from core.sparse.backends import cuda

pytestmark = pytest.mark.gpu

STRIDE_1 = (1, 1, 1)
TOLERANCE = {
    "fp32": 1e-5,
    "tf32": 3e-3,
    "fp16": 2e-3,
    "bf16": 1e-2,
}  # greatest error / greatest value
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def map_on_gpu(voxels: int, kernel=(3, 3, 3), step=STRIDE_1, size: int = 40):
    coords = scene(voxels, 1, size=size).coords.cuda()
    return kernel_map(MapCache(coords), STRIDE_1, kernel, step, STRIDE_1)


def leaves(kmap, cin: int, cout: int, dtype) -> list[Tensor]:
    g = torch.Generator(device="cuda").manual_seed(1)
    shapes = (kmap.n_in, cin), (kmap.volume, cin, cout), (cout,)
    return [torch.randn(s, generator=g, device="cuda").to(dtype).requires_grad_() for s in shapes]


def results(function, tensors: list[Tensor]) -> list[Tensor]:
    y = function(*tensors)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y.detach(), *torch.autograd.grad(y, tensors, probe)]


@pytest.mark.parametrize("arithmetic", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "cin, cout", [(4, 32), (33, 19), (96, 96), (64, 128), (256, 256), (7, 1), (20, 130)]
)
@pytest.mark.parametrize(
    "kernel, step", [((3, 3, 3), STRIDE_1), ((2, 2, 2), (2, 2, 2)), ((5, 5, 5), STRIDE_1)]
)
@pytest.mark.parametrize("voxels", [700, 40_000])
def test_equals_float64(arithmetic, cin, cout, kernel, step, voxels):
    if arithmetic == "tf32":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    kmap = map_on_gpu(voxels, kernel, step)
    tensors = leaves(kmap, cin, cout, DTYPES[arithmetic])
    assert cuda.serves(tensors[0]), "the GPU kernels were not built"
    exact = [t.detach().double().requires_grad_() for t in tensors]
    for both in (kmap, kmap.transposed) if step != STRIDE_1 else (kmap,):
        if both is not kmap:
            tensors[0] = (
                torch.randn(both.n_in, cin, device="cuda").to(tensors[0].dtype).requires_grad_()
            )
            exact[0] = tensors[0].detach().double().requires_grad_()
        ours = results(lambda x, w, b, m=both: convolve(x, w, b, m, "native"), tensors)
        theirs = results(lambda x, w, b, m=both: convolve(x, w, b, m, "torch"), exact)
        for a, b in zip(ours, theirs):
            assert float((a.double() - b).abs().max() / b.abs().max()) < TOLERANCE[arithmetic]


@pytest.mark.parametrize(
    "kernel, step",
    [((3, 3, 3), STRIDE_1), ((2, 2, 2), (2, 2, 2)), ((2, 1, 2), STRIDE_1), ((5, 5, 5), (5, 5, 5))],
)
def test_maps_equal_the_cpu_maps(kernel, step):
    coords = scene(5000, 1, size=30).coords
    ours, theirs = (
        kernel_map(MapCache(c), STRIDE_1, kernel, step, STRIDE_1) for c in (coords.cuda(), coords)
    )
    assert torch.equal(ours.table.cpu(), theirs.table)
    assert torch.equal(ours.transposed.table.cpu(), theirs.transposed.table)
    packed = ours.packed_pairs
    assert torch.equal(packed.count.cpu(), theirs.offsets.ptr.diff().int())


@pytest.mark.parametrize("voxels", [0, 1])
def test_empty_and_single_voxel(voxels):
    x = scene(voxels, 5, dtype=torch.float32)
    x = SparseTensor.from_batch(x.feats.cuda(), x.coords.cuda())
    down, up = Conv3d(5, 6, 2, 2).cuda(), Conv3d(6, 3, 2, 2, transposed=True).cuda()
    y = up(down(Conv3d(5, 5).cuda()(x)))
    assert y.feats.shape == (voxels, 3)
    y.feats.sum().backward()
    assert torch.isfinite(up.kernel.grad).all()


def test_unaligned_and_strided_inputs():
    kmap = map_on_gpu(700)
    _, kernel, _ = leaves(kmap, 8, 8, torch.float16)
    storage = torch.randn(kmap.n_in * 8 + 1, device="cuda").half()
    for x in (storage[1:].view(-1, 8), torch.randn(8, kmap.n_in, device="cuda").half().T):
        expected = convolve(x.double(), kernel.detach().double(), None, kmap, "torch")
        error = (convolve(x, kernel.detach(), None, kmap, "native") - expected).abs().max()
        assert error < TOLERANCE["fp16"] * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bias_sum_and_rectifier_are_fused(dtype):
    kmap = map_on_gpu(3000)
    x, kernel, bias = (t.detach() for t in leaves(kmap, 32, 48, dtype))
    residual = torch.randn(kmap.n_out, 48, device="cuda").to(dtype)
    y = convolve(x, kernel, bias, kmap, "native", residual=residual, relu=True)
    exact = convolve(
        x.double(),
        kernel.double(),
        bias.double(),
        kmap,
        "torch",
        residual=residual.double(),
        relu=True,
    )
    assert (y.double() - exact).abs().max() < 1e-2 * exact.abs().max()


def test_another_stream():
    kmap = map_on_gpu(20_000)
    x, kernel, _ = (t.detach() for t in leaves(kmap, 64, 64, torch.bfloat16))
    expected = convolve(x, kernel, None, kmap, "native")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(20_000_000)
        late.copy_(x)  # a kernel in the default stream would read zeros
        y = convolve(late, kernel, None, kmap, "native")
    stream.synchronize()
    assert torch.equal(y, expected)


def test_same_bits_in_every_run():
    kmap = map_on_gpu(40_000)
    tensors = leaves(kmap, 96, 96, torch.bfloat16)
    first, second = (
        results(lambda x, w, b: convolve(x, w, b, kmap, "native"), tensors) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def network(dtype=torch.float32) -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNet.Config(name="minkunet", cr=0.5), 17).to(dtype)


def batch_of(x: SparseTensor, device: str) -> Batch:
    """The fields that the network reads."""
    batch = object.__new__(Batch)
    object.__setattr__(batch, "feats", x.feats.to(device))
    object.__setattr__(batch, "coords", x.coords.to(device))
    return batch


def train_step(model: MinkUNet, batch: Batch, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    logits = model(batch).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    return logits.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def test_minkunet_equals_the_cpu():
    x = scene(4000, 4, size=24)
    labels = torch.randint(0, 17, (4000,), generator=torch.Generator().manual_seed(0))
    expected = train_step(network(torch.float64), batch_of(x, "cpu"), labels)
    single = x.replace(x.feats.float())
    ours = train_step(network().cuda(), batch_of(single, "cuda"), labels.cuda())
    assert (ours[0].cpu() - expected[0]).abs().max() / expected[0].abs().max() < 1e-4
    a, b = (
        torch.cat([g.flatten().cpu().double() for g in grads]) for grads in (ours[1], expected[1])
    )
    assert (a - b).norm() < 5e-3 * b.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_minkunet_under_autocast(dtype):
    x = scene(4000, 4, size=24, dtype=torch.float32)
    model, batch = network().cuda().eval(), batch_of(x, "cuda")
    with torch.no_grad():
        exact = model(batch).logits
        with torch.autocast("cuda", dtype):
            logits = model(batch).logits
    assert logits.dtype == dtype
    assert (logits.float() - exact).norm() / exact.norm() < (
        0.01 if dtype == torch.float16 else 0.08
    )


def test_a_training_step_never_waits_for_the_gpu(monkeypatch):
    x = scene(4000, 4, size=24, dtype=torch.float32)
    model, batch = network().cuda(), batch_of(x, "cuda")
    labels = torch.randint(0, 17, (4000,), device="cuda")
    cache = MapCache(batch.coords)
    monkeypatch.setattr(
        SparseTensor,
        "from_batch",
        classmethod(lambda cls, feats, coords: cls(feats, coords, STRIDE_1, cache)),
    )
    with torch.autocast("cuda", torch.bfloat16):
        train_step(model, batch, labels)  # builds the maps
        torch.cuda.set_sync_debug_mode("error")
        try:
            train_step(model, batch, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_maps_wait_once_per_stride(monkeypatch):
    """Five strides: the coordinates' range, and the sizes of the four coarser ones."""
    x = scene(4000, 4, size=24, dtype=torch.float32)
    model, batch = network().cuda().eval(), batch_of(x, "cuda")
    with torch.no_grad():
        model(batch)  # constants are sent once per process
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchronizing") as caught:
                model(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchronizing" in str(w.message)]) <= 5
