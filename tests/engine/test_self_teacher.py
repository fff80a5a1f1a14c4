"""The running average as a teacher: before its first update, in which mode, and on several processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.optim.swa_utils import AveragedModel
from toys import ToyReader

from core.config import Config
from core.contracts import Batch
from core.data import DataConfig, SampleKey, ScanSamples
from core.distill.u2mkd import U2MKD
from core.engine.train.sources import SelfTeacher
from core.losses import CrossEntropyLovasz
from core.models import build_model


def make_source(world: int = 1, sync_bn: bool = True) -> SelfTeacher:
    train = SimpleNamespace(ema=0.9, sync_bn=sync_bn)
    context = SimpleNamespace(
        experiment=SimpleNamespace(train=train), world=SimpleNamespace(size=world)
    )
    source = SelfTeacher(context)
    torch.manual_seed(0)
    network = build_model(Config({"model": {"name": "minkunet", "cr": 0.1}}), 3)
    config = U2MKD.Config(name="u2mkd", w_feat=0)
    method = U2MKD(config, network, network, CrossEntropyLovasz())
    source.average = AveragedModel(method.train())
    return source


def make_batch() -> Batch:
    config = ToyReader.Config(name="toy")
    samples = ScanSamples(ToyReader(config, "train"), DataConfig(voxel_size=0.5))
    return samples.collate([samples[SampleKey(0, 0)]])


def test_before_its_first_update_it_is_the_student() -> None:
    """Read with the statistics of evaluation, and without a gradient."""
    source, batch = make_source(), make_batch()
    same, output = source(batch)
    assert same is batch and not output.logits.requires_grad
    assert not source.average.module.training
    student = make_source().average.module.deployed.eval()
    assert torch.equal(output.logits, student(batch).logits)
    assert torch.equal(output.rows_for(batch), torch.arange(len(batch.cells)))


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    source = make_source(2, sync_bn=False)
    for name, buffer in source.average.module.named_buffers():
        if "running_mean" in name:
            buffer.fill_(0.1 * (1 + rank))
    torch.save(source(make_batch())[1].logits, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture
def by_two(tmp_path: Path) -> list[torch.Tensor]:
    """What either process was taught."""
    mp.start_processes(work, (str(tmp_path),), nprocs=2, start_method="fork")
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_processes_with_statistics_of_their_own_are_taught_alike(by_two) -> None:
    """By those of the first, which a continued run finds in its checkpoint."""
    alone = make_source()
    for name, buffer in alone.average.module.named_buffers():
        if "running_mean" in name:
            buffer.fill_(0.1)
    expected = alone(make_batch())[1].logits
    assert torch.equal(by_two[0], expected) and torch.equal(by_two[1], expected)
