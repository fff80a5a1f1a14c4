"""Where the time of a step goes: the table divides a step, the trace opens, nothing else of a run is touched."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from folder_world import write_world
from torch.autograd import DeviceType

from core.config import load_config
from core.engine.run.distributed import World
from core.engine.train.jobs import train_teacher
from core.engine.train.profile_parts import parts_of
from core.engine.train.profiling import WARM_UP, SampleCost, WatchedLoader
from core.errors import UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def measured(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile folder of two steps of training."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "scalars.jsonl").write_text("{}\n")
    tree = load_config(config, ["--model.name", "spvcnn_spformer", "--model.cr", "0.5"])
    train_teacher(World(), tree, folder, profile=2)
    assert sorted(p.name for p in folder.iterdir()) == ["profile", "scalars.jsonl"], (
        "no checkpoint, no log, no scores"
    )
    assert (folder / "scalars.jsonl").read_text() == "{}\n"
    return folder / "profile"


def table(folder: Path) -> dict[str, list[str]]:
    """Part -> forward, backward, ms per step, share."""
    lines = (folder / "table.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("part"))
    rows = {}
    for line in lines[start + 1 : lines.index("", start)]:
        rows[line[:24].strip()] = line[24:].replace("%", "").split()
    return rows


# --- a whole run ----------------------------------------------------------------------------------------------------
def test_parts_add_up_to_the_step(measured: Path) -> None:
    rows = table(measured)
    step = float(rows.pop("step")[0])
    assert sum(float(r[2]) for r in rows.values()) == pytest.approx(step, rel=2e-3)
    assert sum(float(r[3]) for r in rows.values()) == pytest.approx(100, abs=0.6)
    trace = json.loads((measured / "trace.json").read_text())
    steps = [
        e["dur"] for e in trace["traceEvents"] if e.get("name") == "lidistill::step" and "dur" in e
    ]
    assert len(steps) == 2 and sum(steps) / 2000 == pytest.approx(step, rel=2e-3)


@pytest.mark.parametrize(
    "part", ["kernel maps", "convolution", "attention", "batch norm", "loss", "optimiser"]
)
def test_each_part_takes_time(measured: Path, part: str) -> None:
    forward, backward, both, _ = table(measured)[part]
    assert float(forward) > 0 and float(both) > 0
    if part in ("convolution", "attention", "batch norm", "loss"):
        assert float(backward) > 0


def test_trace_shows_operators_by_their_names(measured: Path) -> None:
    names = {
        e.get("name") for e in json.loads((measured / "trace.json").read_text())["traceEvents"]
    }
    assert {
        "lidistill::kernel_map",
        "lidistill::sparse_conv",
        "lidistill::sparse_conv_weight_grad",
        "sptr::window_attention",
        "sptr::window_attention_backward",
    } <= names


def test_sample_cost_is_told(measured: Path) -> None:
    text = (measured / "table.txt").read_text()
    pattern = r"a sample takes ([\d.]+) ms of .*: ([\d.]+) reading, ([\d.]+) augmentation.*; ([\d.]+) ms per step"
    whole, reading, making, step = map(float, re.search(pattern, text).groups())
    assert whole == pytest.approx(reading + making, abs=0.11) and step == pytest.approx(
        2 * whole, abs=0.15
    )


def test_commands_profile_training_distillation_and_evaluation(
    config, tmp_path, monkeypatch, capsys
) -> None:
    """The folder may exist; an evaluation replaces what a training wrote."""
    import evaluate
    import train_student
    import train_teacher

    def command(main, *arguments: str) -> str:
        overrides = ["--num_epochs", "1", "--run-dir", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["command", str(config), *arguments, *overrides])
        main()
        return capsys.readouterr().out

    command(train_teacher.main)
    before = (tmp_path / "evaluation-val.json").read_bytes()
    assert "optimiser" in command(train_teacher.main, "--profile", "1")
    student = [
        "--distill.name",
        "u2mkd",
        "--distill.w_feat",
        "0",
        "--teacher_pretrain",
        str(tmp_path),
    ]
    command(train_student.main, "--profile", "1", *student)
    rows = table(tmp_path / "profile")
    assert (
        float(rows["teacher"][0]) > 0 and rows["teacher"][1] == "-" and float(rows["loss"][1]) > 0
    )
    checkpoint = str(tmp_path / "checkpoints" / "last.pt")
    out = command(
        evaluate.main, "--checkpoint", checkpoint, "--profile", "4"
    )  # three scans: more than an epoch
    assert "4 steps of 1 scans" in out and "optimiser" not in out and "mIoU" not in out
    rows = table(tmp_path / "profile")
    assert float(rows["convolution"][0]) > 0 and rows["convolution"][1] == "-"
    assert (tmp_path / "evaluation-val.json").read_bytes() == before


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(config, tmp_path, steps: int) -> None:
    with pytest.raises(UserError, match=rf"--profile: {steps} steps cannot be measured") as caught:
        train_teacher(World(), load_config(config), tmp_path, profile=steps)
    assert "10" in caught.value.cure


# --- loader and samples ---------------------------------------------------------------------------------------------
class Epochs(list):
    """A loader of a few batches that remembers which epochs were asked for."""

    def __init__(self, *batches) -> None:
        super().__init__(batches)
        self.epochs = []

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        self.epochs.append(epoch)


def test_short_epochs_are_begun_anew() -> None:
    loader = Epochs("a", "b", "c")
    watched = WatchedLoader(loader, 5, World(rank=1, size=2))
    assert list(watched) == list("abcabca") and len(watched) == WARM_UP + 5
    assert loader.epochs == [1, 2, 3] and watched.profiler is None


def test_sample_cost_parts() -> None:
    class Samples:
        cameras = False

        def __len__(self) -> int:
            return 2

        @property
        def dataset(self):
            return SimpleNamespace(load=lambda index, cameras: time.sleep(0.01))

        def __getitem__(self, key):
            time.sleep(0.03)

    cost = SampleCost.of(Samples())
    assert cost.reading == pytest.approx(10, abs=5) and cost.making == pytest.approx(20, abs=8)
    assert "4.0 ms per step with 2" in SampleCost(1, 1).line(
        4, 2
    ) and "8.0 ms per step" in SampleCost(1, 1).line(4, 0)


# --- dividing a step ------------------------------------------------------------------------------------------------
def event(name, start, end, *, seq=-1, thread=1, pending=False, kernels=()):
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(
        name=name, time_range=span, sequence_nr=seq, thread=thread, is_async=pending, kernels=list(kernels),
        device_type=DeviceType.CPU,
    )  # fmt: skip


def test_every_moment_belongs_to_one_part() -> None:
    """One step of 1000 µs: by hand."""
    events = [
        event("lidistill::step", 0, 1000),
        event("lidistill::data", 0, 100),
        event("lidistill::losses", 150, 500),
        event("lidistill::network", 160, 400),
        event("lidistill::kernel_map", 170, 200),
        event("aten::add", 180, 190, seq=7),  # a range names its operators
        event("_Convolution", 200, 260, seq=7),
        event("lidistill::kernel_map", 210, 230),  # a range within an operator stays itself
        event("aten::mm", 240, 250),  # an operator's own operators do not rename it
        event("aten::linear", 300, 340, seq=8),
        event("aten::relu", 350, 360, seq=9),
        event("aten::sum", 450, 480, seq=10),
        event("lidistill::teacher", 410, 440),
        event("_Convolution", 412, 430),  # all of a teacher is the teacher
        event("lidistill::kernel_map", 415, 420),
        event("lidistill::backward", 500, 900),
        event("autograd::engine::evaluate_function: SumBackward0", 500, 550, seq=10),
        event("autograd::engine::evaluate_function: ReluBackward0", 550, 600, seq=9),
        event("autograd::engine::evaluate_function: AddmmBackward0", 600, 640, seq=8),
        event("autograd::engine::evaluate_function: _ConvolutionBackward", 640, 760, seq=7),
        event("lidistill::kernel_map", 650, 660),
        event("aten::linear", 700, 710),
        event("autograd::engine::evaluate_function: AccumulateGrad", 760, 770),
        event("lidistill::optimizer", 900, 1000),
        event("Optimizer.step#SGD.step", 910, 1000),
        event("lidistill::step", 2000, 2000),
        event("aten::linear", 1500, 1600),  # between steps: not counted
    ]
    parts = parts_of(events)
    assert parts.step == pytest.approx(0.5)
    expected = {
        "data loading": (100, 0), "kernel maps": (50, 10), "convolution": (40, 110), "matrix products": (40, 40),
        "other layers": (240 - 30 - 60 - 40, 60), "teacher": (30, 0), "loss": (80, 50), "optimiser": (100, 0),
        "other": (50 + 130, 0),
    }  # fmt: skip
    found = {part: tuple(round(2000 * ms) for ms in both) for part, both in parts.rows.items()}
    assert found == expected


def test_waiting_for_a_collective_is_communication() -> None:
    """A collective runs 250..450 and one 640..700, on threads of their own; operators meanwhile keep their time."""
    events = [
        event("lidistill::step", 0, 1000),
        event("lidistill::network", 100, 500),
        event("_Normalise", 150, 480),
        event("c10d::allgather_", 240, 250),
        event("gloo:all_gather", 250, 430, thread=5, pending=True),
        event("gloo:all_gather", 400, 450, thread=6, pending=True),
        event("aten::mean", 420, 440),
        event("lidistill::backward", 600, 800),
        event("aten::mul", 620, 660),
        event("gloo:all_reduce", 640, 700, thread=5, pending=True),
    ]
    parts = parts_of(events)
    assert 1000 * parts.total("communication") == pytest.approx(10 + (200 - 20) + 40)
    assert 1000 * parts.total("batch norm") == pytest.approx(330 - 190)


def test_kernels_of_a_gpu_count_by_their_own_time() -> None:
    def kernel(duration, name="k"):
        return SimpleNamespace(name=name, duration=duration)

    events = [
        event("lidistill::step", 0, 1000),
        event("lidistill::data", 0, 100),
        event("lidistill::network", 100, 300),
        event("_Convolution", 110, 120, seq=3, kernels=[kernel(200), kernel(50)]),
        event("lidistill::backward", 300, 900),
        event(
            "autograd::engine::evaluate_function: _ConvolutionBackward", 310, 330, seq=3, thread=9
        ),
        event("aten::mm", 320, 325, thread=9, kernels=[kernel(300)]),
        event("aten::add", 326, 329, thread=9, kernels=[kernel(40, "ncclDevKernel_AllReduce")]),
    ]
    parts = parts_of(events)
    found = {part: tuple(round(1000 * ms) for ms in both) for part, both in parts.rows.items()}
    assert found["convolution"] == (250, 300) and found["communication"] == (40, 0)
    assert found["data loading"] == (100, 0) and found["GPU waits for the host"] == (1000 - 690, 0)
