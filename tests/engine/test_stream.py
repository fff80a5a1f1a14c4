"""Streams: the same labels as from files made before, nothing of the future, folders that grow, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import random_checkpoint

from core.config import Config
from core.data.motion_job import prepare_motion
from core.datasets.live import LivePoses
from core.engine.run.distributed import World
from core.engine.score.latency import PARTS, Latency
from core.engine.score.prediction import predict_checkpoint
from core.engine.score.stream import stream_checkpoint
from core.engine.score.stream_source import StreamOptions
from core.errors import UserError
from core.labels import LABEL_SPACES
from tests import motion_world as world

REPO = Path(__file__).resolve().parents[2]
COUNT = 12
MOVABLE = LABEL_SPACES["semantickitti_movable"]


def config(root: Path, delay: int = 0, **dataset: Any) -> Config:
    column = {"file": "motion/{token}.npz", "channels": 8, "motion": {"delay": delay}}
    partition = {
        "name": "cylinder",
        "bins": [32, 48, 4],
        "low": [0, -180, -4],
        "high": [60, 180, 4],
    }
    tree = {
        "num_epochs": 1,
        "batch_size": 1,
        "workers_per_gpu": 0,
        "dataset": {
            "name": "semantickitti",
            "root": str(root),
            "labels": "semantickitti_movable",
            "use_labels": False,
            "cameras": [],
            "split": {"val": ["08"]},
            "partial": True,
            "columns": {"motion": column},
            **dataset,
        },
        "data": {"features": ["xyz", "intensity", "motion"], "partition": partition},
        "model": {"name": "motionbev", "width": 8, "heights": 4, "point_features": 12},
    }
    return Config(tree)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set: sequence 08, in which frame 1 is lacking."""
    root = tmp_path_factory.mktemp("stream")
    frames = [0, *range(2, COUNT + 1)]
    scans = world.sequence(COUNT + 1)
    world.write_drive(root / "sequences/08", [scans[frame] for frame in frames], frames)
    return root


@pytest.fixture(scope="module", params=[0, 3])
def batch(request: pytest.FixtureRequest, drive: Path, tmp_path_factory) -> tuple[int, Path, Path]:
    """Delay, checkpoint, and predictions from maps on disk."""
    delay = request.param
    out = tmp_path_factory.mktemp(f"batch{delay}")
    made = config(drive, delay, columns=_columns(out, delay))
    checkpoint = random_checkpoint(made, MOVABLE, out / "net.pt")
    _sharpen(checkpoint)
    prepare_motion(made, ["val"])
    predict_checkpoint(World(), made, checkpoint, "split:val", out / "labels", format="npy")
    return delay, checkpoint, out / "labels"


@pytest.fixture(scope="module")
def checkpoint(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that looks at nothing of the future."""
    return random_checkpoint(config(drive), MOVABLE, tmp_path_factory.mktemp("net") / "net.pt")


def _sharpen(checkpoint: Path) -> None:
    """Make a random network depend on what it reads more than on its biases."""
    saved = torch.load(checkpoint, weights_only=True)
    for name, weight in saved["model"].items():
        if weight.dim() > 1:
            weight *= 3
        elif name.endswith("bias"):
            weight.zero_()
    torch.save(saved, checkpoint)


def _columns(root: Path, delay: int) -> dict[str, Any]:
    file = f"../{root.name}/motion/{{token}}.npz"
    return {"motion": {"file": file, "channels": 8, "motion": {"delay": delay}}}


def stream(root: Path, checkpoint: Path, source: object, out: Path, delay: int = 0, **options: Any):
    given = options.pop("config", config(root, delay))
    asked = StreamOptions(**{"delay": delay, "format": "npy", **options})
    return stream_checkpoint(World(), given, checkpoint, str(source), out, asked)


def labels(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(folder.rglob("*.npy"))}


def test_a_stream_says_what_the_batch_says(batch, drive, tmp_path, capsys):
    delay, checkpoint, expected = batch
    stream(drive, checkpoint, "split:val", tmp_path / "split", delay)
    stream(drive, checkpoint, drive / "sequences/08", tmp_path / "folder", delay)
    whole = labels(expected)
    assert len(whole) == COUNT
    assert labels(tmp_path / "split") == whole
    assert labels(tmp_path / "folder") == whole
    printed = capsys.readouterr().out
    wait = f"{delay} scans ({100 * delay} ms) after" if delay else "with"
    assert f"12 scans streamed, each prediction {wait} its scan" in printed
    for part in (*PARTS, "all"):
        assert f"\n{part:<12}" in printed
    record = json.loads((tmp_path / "folder/latency.json").read_text())
    assert record["scans"] == COUNT and record["delay"] == delay
    assert set(record["parts"]) == {*PARTS, "all"} and record["command"]


def test_the_network_sees_the_motion(batch, drive, tmp_path):
    """Else the test above would hold for features of zeros."""
    delay, checkpoint, expected = batch
    if delay:
        return
    still = tmp_path / "still"
    shutil.copytree(drive / "sequences/08", still)
    poses = still / "poses.txt"
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join(lines[:1] * len(lines)) + "\n")
    stream(drive, checkpoint, still, tmp_path / "out")
    assert labels(tmp_path / "out") != labels(expected)


def test_a_later_scan_changes_no_earlier_label(batch, drive, tmp_path):
    delay, checkpoint, expected = batch
    changed = tmp_path / "changed"
    shutil.copytree(drive / "sequences/08", changed)
    frame = COUNT - 1
    other = np.fromfile(changed / f"velodyne/{frame:06d}.bin", np.float32).reshape(-1, 4)
    other[:, 2] = np.random.default_rng(0).uniform(-1.5, 1, len(other))
    other.tofile(changed / f"velodyne/{frame:06d}.bin")
    stream(drive, checkpoint, changed, tmp_path / "out", delay)
    before, now = labels(expected), labels(tmp_path / "out")
    same = {int(name) for name in before if before[name] == now[name]}
    assert set(range(2, frame - delay)) <= same
    assert not same & {frame, frame - min(delay, 1)}


def test_too_little_patience_is_refused_by_name(batch, drive, tmp_path):
    delay, checkpoint, _ = batch
    if delay == 0:
        return
    message = rf"looks {delay} scans ahead \({100 * delay} ms\).*wait for 0 scans.*--delay {delay}"
    with pytest.raises(UserError, match=message):
        stream(drive, checkpoint, "split:val", tmp_path, config=config(drive, delay), delay=0)
    assert not list(tmp_path.iterdir())


def test_features_of_another_delay_than_the_network_s(checkpoint, drive, tmp_path):
    """Refused by every job on a checkpoint, not by the stream alone."""
    other = config(drive, 3)
    with pytest.raises(UserError, match=r"trained on .*polar of delay 0\) .*polar of delay 3"):
        predict_checkpoint(World(), other, checkpoint, "split:val", tmp_path / "out")
    both = config(drive)
    both.tree["dataset"]["columns"]["ahead"] = both.tree["dataset"]["columns"]["motion"] | {
        "motion": {}
    }
    both.tree["data"]["features"][2] = "ahead"
    with pytest.raises(UserError, match=r"'motion', polar of delay 0.*'ahead', polar of delay 7"):
        stream(drive, checkpoint, "split:val", tmp_path / "out", 7, config=both)
    assert not (tmp_path / "out").exists()


def grow(source: Path, target: Path, pause: float) -> threading.Thread:
    """Write the files of a drive one after the other, in pieces, each pose after its scan."""
    (target / "velodyne").mkdir(parents=True)
    shutil.copy(source / "calib.txt", target)
    poses = (source / "poses.txt").read_bytes().splitlines(keepends=True)

    def work() -> None:
        with open(target / "poses.txt", "ab", buffering=0) as written:
            written.write(b"".join(poses[:2]))
            for path in sorted((source / "velodyne").iterdir()):
                content = path.read_bytes()
                with open(target / "velodyne" / path.name, "wb", buffering=0) as stream:
                    stream.write(content[:1000])
                    time.sleep(0.005)
                    stream.write(content[1000:])
                frame = int(path.stem)
                if frame >= 2:
                    written.write(poses[frame][:50])
                    time.sleep(0.005)
                    written.write(poses[frame][50:])
                time.sleep(pause)

    return threading.Thread(target=work)


def test_a_folder_that_grows(batch, drive, tmp_path):
    delay, checkpoint, expected = batch
    writer = grow(drive / "sequences/08", tmp_path / "live", 0.01)
    writer.start()
    out = tmp_path / "out"
    stream(drive, checkpoint, tmp_path / "live", out, delay, follow=True, timeout=3.0)
    writer.join(20)
    assert labels(out) == labels(expected)


def test_a_signal_ends_a_stream_cleanly(checkpoint, drive, tmp_path):
    out, times = tmp_path / "out", tmp_path / "times.json"
    words = ["evaluate.py", "stream", drive / "sequences/08", "--checkpoint", checkpoint]
    words += ["--out", out, "--json", times, "--format", "npy", "--follow", "--timeout", "60"]
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=REPO, stdout=subprocess.PIPE)
    try:
        begin = time.monotonic()
        while len(labels(out)) < COUNT and time.monotonic() - begin < 120:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b"12 scans streamed" in printed
    assert json.loads(times.read_text())["scans"] == COUNT
    assert not list(out.rglob("*.tmp*")) and not (out / "latency.json").exists()


def test_scans_that_never_come(checkpoint, drive, tmp_path):
    (tmp_path / "none").mkdir()
    shutil.copy(drive / "sequences/08/poses.txt", tmp_path)
    with pytest.raises(UserError, match=r"no scan came in 0\.1 s; it is empty"):
        stream(drive, checkpoint, tmp_path / "none", tmp_path / "o", follow=True, timeout=0.1)
    with pytest.raises(UserError, match=r"no scans; it is empty.*--follow waits"):
        stream(drive, checkpoint, tmp_path / "none", tmp_path / "o")
    with pytest.raises(UserError, match="no such folder"):
        stream(
            drive, checkpoint, tmp_path / "nowhere", tmp_path / "o", poses=tmp_path / "poses.txt"
        )


def test_poses_that_are_lacking(checkpoint, drive, tmp_path):
    shutil.copytree(drive / "sequences/08", tmp_path / "d")
    poses = tmp_path / "d/poses.txt"
    poses.write_text("".join(poses.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        UserError, match=r"poses\.txt: the file has 12 lines, too few for scan 000012\.bin"
    ):
        stream(drive, checkpoint, tmp_path / "d", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="too few for scan"):
        stream(drive, checkpoint, tmp_path / "d", tmp_path / "out", follow=True, timeout=0.2)
    assert len(labels(tmp_path / "out")) >= 1
    poses.unlink()
    with pytest.raises(UserError, match=r"no poses\.txt lies there or above.*--poses"):
        stream(drive, checkpoint, tmp_path / "d", tmp_path / "out")
    with pytest.raises(UserError, match="a split lies there whole"):
        stream(drive, checkpoint, "split:val", tmp_path / "out", poses=poses)


def test_poses_as_they_are_written(tmp_path):
    path = tmp_path / "poses.txt"
    lines = [f"1 0 0 {k} 0 1 0 0 0 0 1 0\n" for k in range(4)]
    live = LivePoses(path, grows=True)
    assert live.at(0) is None
    path.write_text("".join(lines[:2]) + lines[2][:9])
    assert live.at(1)[0, 3] == 1 and live.at(2) is None
    path.write_text("".join(lines))
    assert live.at(3)[0, 3] == 3 and len(live) == 4
    path.write_text(lines[0])
    with pytest.raises(UserError, match="belongs to another drive"):
        live.at(4)
    path.write_text("".join(lines)[:-1])
    assert LivePoses(path).at(3) is not None
    path.write_text("".join(lines) + "2 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(UserError, match="line 5"):
        LivePoses(path).at(0)


def test_what_a_stream_does_not_have(checkpoint, drive, tmp_path):
    column = {"echo": {"file": "{token}.npy"}}
    other = config(drive, columns=column)
    other.tree["data"]["features"] = ["xyz", "intensity", "echo"]
    other.tree["model"] = {"name": "minkunet", "cr": 0.25}
    del other.tree["data"]["partition"]
    net = random_checkpoint(other, MOVABLE, tmp_path / "net.pt")
    with pytest.raises(UserError, match="column 'echo', which lies in files of its own"):
        stream(drive, net, "split:val", tmp_path / "out", config=other)
    swept = config(drive, multisweeps={"num_sweeps": 2}, columns={})
    swept.tree["data"] = {"features": ["xyz", "intensity"]}
    swept.tree["model"] = {"name": "minkunet", "cr": 0.25}
    net = random_checkpoint(swept, MOVABLE, tmp_path / "net.pt")
    with pytest.raises(UserError, match="2 sweeps joined to each scan"):
        stream(drive, net, "split:val", tmp_path / "out", config=swept)
    with pytest.raises(UserError, match="2 processes were started"):
        stream_checkpoint(World(0, 2), swept, checkpoint, "split:val", tmp_path, StreamOptions())


def test_a_network_of_single_scans_needs_no_poses(drive, tmp_path):
    plain = config(drive, columns={})
    plain.tree["data"] = {"features": ["xyz", "intensity"]}
    plain.tree["model"] = {"name": "minkunet", "cr": 0.25}
    net = random_checkpoint(plain, MOVABLE, tmp_path / "net.pt")
    predict_checkpoint(World(), plain, net, "split:val", tmp_path / "batch", format="npy")
    scans = drive / "sequences/08/velodyne"
    bare = shutil.copytree(scans, tmp_path / "bare")
    (bare / "000003.bin").write_bytes((bare / "000003.bin").read_bytes()[:-5])
    with pytest.raises(UserError, match=r"000003\.bin.*multiple of 16"):
        stream(drive, net, bare, tmp_path / "live", config=plain)
    plain.tree["data"]["on_bad_sample"] = "skip"
    stream(drive, net, bare, tmp_path / "rest", config=plain)
    whole = labels(tmp_path / "batch")
    del whole["000003"]
    assert labels(tmp_path / "rest") == whole


def test_predictions_of_a_batch_are_not_mixed_with_those_of_a_stream(batch, drive, tmp_path):
    delay, checkpoint, expected = batch
    out = shutil.copytree(expected, tmp_path / "labels")
    with pytest.raises(UserError, match="predictions of another checkpoint"):
        stream(drive, checkpoint, "split:val", out, delay)


def test_latency_is_counted_by_steps():
    now = [0.0]
    latency = Latency(0.1, lambda: now[0])
    for step, seconds in enumerate([9.0, 0.01, 0.02, 0.09]):
        latency.begin(0.005)
        now[0] += seconds
        latency.mark("motion")
        now[0] += 0.01 * step
        latency.mark("network")
    latency.end()
    now[0] += 5
    latency.mark("write")
    found = latency.to_json()
    assert found["scans"] == 4 and found["late"] == 1
    assert found["first_ms"] == pytest.approx(9005)
    assert found["parts"]["motion"]["median"] == pytest.approx(20)
    assert found["parts"]["network"] == pytest.approx({"median": 20, "p95": 29, "max": 30})
    assert found["parts"]["all"]["max"] == pytest.approx(125)
    assert found["parts"]["write"]["max"] == 0
    assert "1 of 3 scans took longer than the 100 ms" in latency.text()
    assert Latency(0.1).to_json()["parts"] == {}
