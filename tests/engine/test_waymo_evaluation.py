"""Waymo by the commands: a submission of the synthetic world, its truth, its score, and that of evaluate.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_submission import job

from core.config import load_config
from core.datasets.benchmark import benchmark
from core.datasets.waymo.reader import Waymo
from core.datasets.waymo.scoring.frame_lists import FrameFile
from core.engine import submission
from core.engine.run.distributed import World
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.submission import SubmissionFolder, submit_checkpoint
from core.engine.score.submission_check import check_submission, open_split
from core.errors import UserError
from core.io import write_json


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def waymo(tiny_waymo_v1: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A configuration, and random weights."""
    return job(tmp_path / "job", "waymo", tiny_waymo_v1, voxel_size=0.5)


def submit(paths: tuple[Path, Path], out: Path, **options: int) -> None:
    submit_checkpoint(World(), load_config(paths[0]), paths[1], out, split="val", **options)


def scored(root: Path, predictions: Path, folder: Path) -> dict:
    """By the two commands."""
    truth, told = folder / "truth.bin", folder / "score.json"
    submission.main(["waymo-truth", "--root", str(root), "--out", str(truth)])
    submission.main(["waymo-score", str(truth), str(predictions), "--json", str(told)])
    return json.loads(told.read_text())


def test_points_and_cells_score_the_same(waymo, tiny_waymo_v1, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    submit(waymo, out)
    assert capsys.readouterr().out.endswith(
        "rehearsal complete: 2 scans of synthetic world (Waymo Open Dataset format) val, all checks passed. To submit: "
        "scans of the real data set (this is a synthetic world (Waymo Open Dataset format)), and account_name, "
        "unique_method_name, authors in submission.json\n"
    )
    by_cell = scored(tiny_waymo_v1, out, tmp_path)
    assert f"in {tmp_path / 'truth.bin'}\n" in capsys.readouterr().out
    result = evaluate_checkpoint(World(), load_config(waymo[0]), waymo[1], tmp_path)
    assert by_cell["confusion"][1:] == result.confusion[1:], "row 0 counts cells without a point"
    assert by_cell["confusion_first_return"][1:] == result.subsets["first return"][1:]
    told = result.to_json()
    for key in ("miou", "miou_official", "classes_scored"):
        assert by_cell[key] == pytest.approx(told[key])
    assert by_cell["first_return"]["miou"] == pytest.approx(told["miou_by_subset"]["first return"])
    first, second = (np.sum(result.subsets[f"{name} return"]) for name in ("first", "second"))
    assert first + second == result.num_points and second > 0
    printed = capsys.readouterr().out
    assert f"the benchmark's own tool: {told['miou_official']:.2f}, first return: " in printed


@pytest.mark.parametrize("world", ["tiny_waymo_v1", "tiny_waymo_v2"])
def test_labels_that_are_submitted_score_one(world, request, tmp_path) -> None:
    root = request.getfixturevalue(world)
    scans = open_split("waymo", root, "val", "")
    labelled = Waymo(scans.config.model_copy(update={"use_labels": True}), "val")
    folder = SubmissionFolder(tmp_path, "waymo", scans.labels, scans.official_split, scans)
    for index in range(len(scans)):
        labels = labelled.load(index, cameras=False).labels
        assert (labels == 0).any()
        folder.write(scans.token(index), labels)
    server = benchmark("waymo")
    write_json(tmp_path / "submission.json", server.metadata("val", False)["submission.json"])
    names = [server.submitted_path(scans.token(i), "val") for i in range(len(scans))]
    server.container.pack(tmp_path, names, 1)
    told = scored(root, tmp_path, tmp_path / "score")
    assert told["miou"] == told["miou_official"] == told["first_return"]["miou"] == 100
    faults = list(check_submission(tmp_path, scans))
    assert faults and all("no class in" in fault for fault in faults), "labels have gaps"


def test_a_begun_submission_is_completed_and_checked(
    waymo, tiny_waymo_v1, tmp_path, capsys
) -> None:
    submit(waymo, tmp_path / "a")
    submit(waymo, tmp_path / "b", per_file=1)
    one = tmp_path / "a" / "submission.bin"
    whole = one.read_bytes()
    token = FrameFile(one).tokens[1]
    (tmp_path / "a" / "frames" / f"{token}.bin").unlink()
    one.unlink()
    info = json.loads((tmp_path / "a" / "submission.json").read_text())
    filled = {"account_name": "me", "unique_method_name": "Net", "authors": ["A"]}
    write_json(tmp_path / "a" / "submission.json", info | filled)
    capsys.readouterr()
    submit(waymo, tmp_path / "a")
    told = capsys.readouterr().out
    assert told.startswith("1 scan predicted (1 were there before)")
    assert told.endswith("(this is a synthetic world (Waymo Open Dataset format))\n"), (
        "all filled in"
    )
    assert FrameFile(one).tokens == [token_of(path) for path in shards(tmp_path / "b")]
    assert one.read_bytes() != whole and (tmp_path / "a" / "frame_list.bin").read_bytes() in whole
    arguments = ["--dataset", "waymo", "--root", str(tiny_waymo_v1), "--split"]
    submission.main(["check", str(tmp_path / "b"), *arguments, "val"])
    shards(tmp_path / "b")[0].unlink()
    with pytest.raises(UserError, match="would not take this submission: 1 fault, listed above"):
        submission.main(["check", str(tmp_path / "b"), *arguments, "val"])
    capsys.readouterr()
    with pytest.raises(UserError, match="4 faults, listed above"):
        submission.main(["check", str(one), *arguments, "train"])
    told = capsys.readouterr().out
    token = FrameFile(one).tokens[0]
    assert told.startswith(
        f"submission.bin: frame {token} is not one of the 2 frames of the train split\n"
    )


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("submission-*.bin"))


def token_of(path: Path) -> str:
    (token,) = FrameFile(path).tokens
    return token


def test_a_zip_is_not_cut(tiny_kitti, tmp_path) -> None:
    paths = job(tmp_path / "job", "semantickitti", tiny_kitti, voxel_size=0.4)
    with pytest.raises(UserError, match="--frames-per-file: SemanticKITTI takes one zip"):
        submit(paths, tmp_path / "out", per_file=2)


def test_first_returns_alone_are_no_submission(waymo, tmp_path) -> None:
    config = load_config(waymo[0], ["--dataset.returns", "first"])
    with pytest.raises(UserError, match="classes for both returns of TOP"):
        submit_checkpoint(World(), config, waymo[1], tmp_path / "out", split="val")
