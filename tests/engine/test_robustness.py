"""Robustness: the benchmarks' means from published rows, and scores under corruptions that a killed job completes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from folder_world import write_world

from core.config import load_config
from core.data.corruptions import PROFILES, SEVERITIES, chosen
from core.engine.report.robustness_scores import ROBO3D_BASELINE, summarise
from core.engine.run.distributed import World
from core.engine.score import robustness
from core.engine.score.evaluation import score_network
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.robustness import evaluate_robustness
from core.engine.score.voting import Votes
from core.errors import UserError
from core.labels import SEMANTICKITTI
from core.models import build_model

TYPES = ("fog", "snowfall", "global", "local", "32beam", "16beam")
# clean, RmIoU, mR, then mIoU and R of the types above: Yan et al., table of the benchmark's models.
TABLE = {
    "SalsaNext": (
        55.8,
        42.7,
        76.5,
        27.3,
        48.9,
        43.6,
        78.1,
        49.5,
        88.7,
        53.6,
        96.1,
        51.1,
        91.6,
        31.0,
        55.6,
    ),
    "PolarNet": (
        58.2,
        43.3,
        74.5,
        31.7,
        54.5,
        47.4,
        81.5,
        52.4,
        90.0,
        48.7,
        83.7,
        46.3,
        79.5,
        33.5,
        57.6,
    ),
    "CENet": (
        62.3,
        47.7,
        76.6,
        31.5,
        50.5,
        51.3,
        82.4,
        57.2,
        91.7,
        58.6,
        94.0,
        54.5,
        87.5,
        33.4,
        53.7,
    ),
    "GFNet": (
        63.0,
        46.4,
        73.6,
        31.1,
        49.4,
        41.8,
        66.3,
        61.4,
        97.5,
        56.0,
        88.9,
        52.5,
        83.4,
        35.6,
        56.5,
    ),
    "KPConv": (
        63.5,
        51.6,
        81.3,
        59.6,
        93.9,
        54.8,
        86.4,
        61.9,
        97.4,
        31.8,
        50.1,
        58.3,
        91.7,
        43.4,
        68.3,
    ),
    "RandLA-Net": (
        59.2,
        47.6,
        80.4,
        56.4,
        95.4,
        50.0,
        84.4,
        57.8,
        97.8,
        26.4,
        44.7,
        53.3,
        90.1,
        41.7,
        70.5,
    ),
    "Point Transformer": (
        63.3,
        40.5,
        64.0,
        45.5,
        71.9,
        44.2,
        69.9,
        38.8,
        61.4,
        39.3,
        62.2,
        47.2,
        74.6,
        27.9,
        44.2,
    ),
    "MinkowskiNet": (
        66.3,
        53.6,
        80.9,
        56.3,
        84.9,
        50.4,
        76.1,
        65.3,
        98.5,
        37.0,
        55.9,
        62.2,
        93.9,
        50.4,
        76.0,
    ),
    "SPVCNN": (
        67.4,
        53.2,
        78.9,
        53.7,
        79.7,
        50.5,
        75.0,
        65.8,
        97.7,
        39.6,
        58.8,
        61.7,
        91.5,
        47.7,
        70.8,
    ),
    "Cylinder3D": (
        66.9,
        46.5,
        69.5,
        44.2,
        66.1,
        45.7,
        68.3,
        63.3,
        94.6,
        39.7,
        59.4,
        51.2,
        76.5,
        34.7,
        51.9,
    ),
    "2DPASS": (
        70.1,
        51.1,
        72.9,
        40.4,
        57.6,
        53.6,
        76.5,
        69.8,
        99.6,
        43.9,
        62.7,
        61.3,
        87.4,
        37.7,
        53.7,
    ),
    "RLSeg": (
        73.5,
        62.5,
        85.0,
        57.6,
        78.4,
        66.2,
        90.1,
        73.4,
        99.9,
        71.9,
        97.8,
        62.3,
        84.7,
        43.6,
        59.3,
    ),
}


# --- means ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", TABLE)
def test_published_rows_are_reproduced(model: str) -> None:
    clean, rmiou, mr, *cells = TABLE[model]
    mious, shares = dict(zip(TYPES, cells[::2])), dict(zip(TYPES, cells[1::2]))
    scores = {}
    for kind, miou in mious.items():  # severities whose mean is the published value
        names = [c.name for c in PROFILES["semantickitti-c"] if c.kind == kind]
        spread = (-3.0, 0.0, 3.0) if len(names) == 3 else (-5.0, 5.0)
        scores |= {name: miou + d for name, d in zip(names, spread)}
    summary = summarise("semantickitti-c", clean, scores)
    assert summary.mean_miou == pytest.approx(rmiou, abs=0.1)
    assert summary.mean_resilience == pytest.approx(mr, abs=0.1)
    assert summary.mean_error is None
    for kind in TYPES:
        assert summary.types[kind].miou == pytest.approx(mious[kind], abs=1e-9)
        # Clean, mIoU and share are all rounded to 0.1.
        rounding = 0.05 + 5 / clean * (1 + shares[kind] / 100)
        assert summary.types[kind].resilience == pytest.approx(shares[kind], abs=rounding)


def test_types_weigh_alike() -> None:
    """2DPASS: 306.7 / 6 = 51.1 by types; the mean of the 16 corruptions would be 51.3."""
    mious = dict(zip(TYPES, TABLE["2DPASS"][3::2]))
    scores = {c.name: mious[c.kind] for c in PROFILES["semantickitti-c"]}
    assert sum(scores.values()) / 16 == pytest.approx(51.3, abs=0.06)
    assert summarise("semantickitti-c", 70.1, scores).mean_miou == pytest.approx(51.12, abs=0.01)


def test_robo3d_row_of_2dpass() -> None:
    means = (40.46, 60.68, 48.53, 57.80, 58.78, 28.46, 55.84, 50.01)
    scores = {c.name: dict(zip(ROBO3D_BASELINE, means))[c.kind] for c in PROFILES["robo3d"]}
    summary = summarise("robo3d", 64.61, scores)
    assert summary.mean_error == pytest.approx(106.14, abs=0.01)
    assert summary.mean_resilience == pytest.approx(77.50, abs=0.01)
    assert summarise("robo3d", 64.61, scores, baseline=False).mean_error is None


def test_the_baseline_scores_100() -> None:
    scores = {
        c.name: ROBO3D_BASELINE[c.kind][SEVERITIES.index(c.level)] for c in PROFILES["robo3d"]
    }
    summary = summarise("robo3d", 62.76, scores)
    assert summary.mean_error == pytest.approx(100) and summary.mean_resilience == pytest.approx(
        81.90, abs=0.01
    )


def test_no_mean_over_a_part() -> None:
    names = [c.name for c in chosen("semantickitti-c", ["fog", "32beam"])]
    scores = dict.fromkeys(names, 50.0)
    summary = summarise("semantickitti-c", 80.0, scores)
    assert set(summary.types) == {"fog", "32beam"} and summary.types[
        "fog"
    ].resilience == pytest.approx(62.5)
    assert summary.mean_miou is summary.mean_resilience is None
    assert set(summarise("semantickitti-c", 80.0, scores | {"fog_heavy": math.nan}).types) == {
        "32beam"
    }


# --- the job --------------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = write_world(tmp_path / "world")
    tree = yaml.safe_load(path.read_text()) | {"model": {"name": "minkunet", "cr": 0.25}}
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def checkpoint(world: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = load_config(world)
    network = build_model(config, SEMANTICKITTI.num_classes, pretrained=False)
    identity = {"fingerprint": SEMANTICKITTI.fingerprint, "classes": list(SEMANTICKITTI.classes)}
    torch.save(
        {"model": network.state_dict(), "training_only": {}, "identity": identity},
        tmp_path / "net.pt",
    )
    return tmp_path / "net.pt"


def study(
    world: Path,
    checkpoint: Path,
    out: Path,
    *kinds: str,
    profile: str = "semantickitti-c",
    **options,
):
    return evaluate_robustness(
        World(),
        load_config(world),
        checkpoint,
        out,
        profile=profile,
        kinds=kinds or None,
        **options,
    )


def test_every_corruption_is_scored(world: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    summary = study(world, checkpoint, tmp_path / "run", json_path=tmp_path / "summary.json")
    folder = tmp_path / "run/robustness-semantickitti-c"
    assert len(summary.types) == 6 and len(summary.corruptions) == 16
    line = capsys.readouterr().out
    assert f"RmIoU {summary.mean_miou:.2f}" in line and f"mR {summary.mean_resilience:.2f}" in line
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(
        (folder / "summary.json").read_text()
    )
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert [row["corruption"] for row in rows] == [
        "clean",
        *(c.name for c in PROFILES["semantickitti-c"]),
    ]
    points = {row["corruption"]: int(row["points"]) for row in rows}
    assert points["clean"] == points["fog_heavy"] == 3 * 699 and points["global_heavy"] == 3 * (
        699 + 350
    )
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64") == 17 and page.count("<rect") == 16
    assert (
        "http" not in page.split("</head>")[1] and f"{summary.mean_miou:.1f}<small>% RmIoU" in page
    )
    plain = evaluate_checkpoint(World(), load_config(world), checkpoint, tmp_path / "plain")
    assert summary.clean == pytest.approx(100 * plain.miou)


def test_a_killed_job_goes_on(
    world: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study(world, checkpoint, tmp_path / "whole", "32beam")
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_network(*arguments, **options)

    monkeypatch.setattr(robustness, "score_network", counted)
    with pytest.raises(KeyboardInterrupt):
        study(world, checkpoint, tmp_path / "run", "32beam")
    again = study(world, checkpoint, tmp_path / "run", "32beam")
    assert len(calls) == 2 + 2 and again == whole  # the clean score was there
    study(world, checkpoint, tmp_path / "run", "dense_32beam")
    assert len(calls) == 4
    changed = torch.load(checkpoint, weights_only=True)
    changed["identity"]["note"] = "other bytes"
    torch.save(changed, checkpoint)
    study(world, checkpoint, tmp_path / "run", "dense_32beam")
    assert len(calls) == 6


def test_batches_do_not_change_a_score(world: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A corruption depends on the token alone, not on who meets the scan when."""
    single = study(world, checkpoint, tmp_path / "a", "local_heavy")
    world.write_text(world.read_text().replace("pictures: 0", "pictures: 0\n  batch_size: 3"))
    assert study(world, checkpoint, tmp_path / "b", "local_heavy").corruptions == single.corruptions


def test_labels_of_distorted_points_may_count(
    world: Path, checkpoint: Path, tmp_path: Path
) -> None:
    labelled = []
    for keep in (False, True):
        study(world, checkpoint, tmp_path / "run", "local_heavy", keep_labels=keep)
        saved = json.loads(
            (tmp_path / "run/robustness-semantickitti-c/local_heavy.json").read_text()
        )
        labelled.append(sum(map(sum, saved["confusion"][1:])))
    assert labelled[0] == pytest.approx(0.8 * labelled[1], rel=1e-3)


def test_votes(world: Path, checkpoint: Path, tmp_path: Path) -> None:
    study(world, checkpoint, tmp_path / "run", "dense_32beam", votes=Votes(3))
    saved = json.loads((tmp_path / "run/robustness-semantickitti-c/dense_32beam.json").read_text())
    assert saved["votes"] == 3


def test_published_scans_are_read(world: Path, checkpoint: Path, tmp_path: Path) -> None:
    from core.data.corruptions.write import write_corrupted
    from core.datasets import build_dataset

    config = load_config(world)
    write_corrupted(build_dataset(config, "val"), chosen("robo3d", ["crosstalk"]), tmp_path / "c")
    made = study(world, checkpoint, tmp_path / "made", "crosstalk", profile="robo3d")
    read = study(
        world, checkpoint, tmp_path / "read", "crosstalk", profile="robo3d", root=tmp_path / "c"
    )
    assert read.corruptions == made.corruptions
    assert read.types["crosstalk"].error is None  # not the scans of the published baseline
    with pytest.raises(UserError, match="--robustness-root"):
        study(world, checkpoint, tmp_path / "read", "fog", profile="robo3d", root=tmp_path / "c")
