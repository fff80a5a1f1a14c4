"""The report page: well-formed, self-contained, complete, escaped, bounded."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.engine.report import page as report
from core.engine.report.charts import confusion_chart, curves, line_chart
from core.engine.report.page import ScenePicture, write_report
from core.errors import UserError
from core.io import write_json
from core.labels import NUSCENES
from core.metrics import EvaluationResult, SegmentationScore

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = '<script>alert("x")</script> & co'


class Page(HTMLParser):
    """Elements and text of a page; fails on a tag that is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def a_result(
    classes: tuple[str, ...] = NUSCENES.classes, quality: float = 0.7, **about
) -> EvaluationResult:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(classes) - 1, 4000)  # the last class never occurs
    noise = rng.integers(1, len(classes), 4000)
    prediction = np.where(rng.random(4000) < quality, np.maximum(truth, 1), noise)
    score = SegmentationScore(len(classes))
    distance = torch.from_numpy(rng.random(4000) * 49)
    score.update(torch.from_numpy(prediction), torch.from_numpy(truth), distance)
    known = {
        "dataset": "nuscenes",
        "split": "val",
        "num_scans": 20,
        "num_points": 4000,
        "seconds": 5.0,
        "checkpoint": "last.pt",
        "checkpoint_sha256": "ab" * 32,
        "command": "python evaluate.py",
    }
    return EvaluationResult.from_score(score, classes=classes, **(known | about))


def a_scene(token: str = "scene-1", count: int = 500) -> ScenePicture:
    rng = np.random.default_rng(1)
    points = rng.normal(0, 15, (count, 3)).astype(np.float32)
    truth, prediction = rng.integers(0, 17, (2, count)).astype(np.uint8)
    uv = rng.uniform(0, 60, (count, 2)).astype(np.float32)
    camera = ("CAM_FRONT", rng.integers(0, 255, (60, 100, 3), np.uint8), uv, np.arange(count) < 100)
    return ScenePicture(token, points, truth, prediction, [camera], [("Teacher", truth)])


def written(
    folder: Path, result: EvaluationResult, scenes: list[ScenePicture] = (), **about
) -> str:
    known = {
        "title": "A run",
        "command": "python train_teacher.py x.yaml",
        "config_text": "train:\n  seed: 41\n",
    }
    path = write_report(folder, result, scenes, **(known | about))
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def images(page: Page) -> list[Image.Image]:
    sources = [a["src"] for tag, a in page.elements if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources]


def test_whole_page(tmp_path: Path) -> None:
    result = a_result()
    history = [
        {"global_step": i, "epoch_num": 1, "loss/total": 3 / i, "lr": 0.01} for i in range(1, 40)
    ]
    html = written(tmp_path, result, [a_scene()], history=history)
    page = Page(html)
    assert {"html", "head", "body", "main"} <= {tag for tag, _ in page.elements}
    for name in NUSCENES.classes:
        assert name in page.text
    for fact in (
        f"{100 * result.miou:.2f}",
        "20 scans",
        "no test-time augmentation",
        "last.pt",
        "ab" * 32,
        "Seed41",
    ):
        assert fact in page.text
    assert "the 15 of 16 classes that occur in it" in page.text
    assert "Not in this split, and not in the mean: vegetation." in page.text
    for heading in ("Classes", "Range", "Confusion", "Scenes", "Training", "Reproduce"):
        assert ("section", {"id": heading.lower()}) in page.elements
    assert len(images(page)) == 5  # truth, teacher, prediction, errors, one camera
    assert len(html) < 1_000_000


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    page = Page(
        written(tmp_path, a_result(), [a_scene()], config_text="url: https://example.org/x")
    )
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object"}
        for key in ("src", "href", "srcset", "xlink:href", "action", "poster"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/"))
    style = "".join(page.words)
    assert "@import" not in style and "url(" not in style
    assert ("viewport", "width=device-width, initial-scale=1") in [
        (a.get("name"), a.get("content")) for _, a in page.elements
    ]
    assert "prefers-color-scheme:dark" in style


def test_everything_is_escaped(tmp_path: Path) -> None:
    classes = ("ignore", f"{EVIL}1", f"{EVIL}2", "plain")
    result = a_result(classes, dataset=EVIL, split=EVIL, checkpoint=EVIL, command=EVIL)
    points, ids = np.zeros((4, 3), np.float32), np.arange(4, dtype=np.uint8)
    camera = (EVIL, np.zeros((8, 8, 3), np.uint8), np.zeros((4, 2), np.float32), np.ones(4, bool))
    scene = ScenePicture(EVIL, points, ids, ids, [camera], [(EVIL, ids)])
    history = [
        {"global_step": 1, f"loss/{EVIL}": 1.0},
        {"global_step": 2, f"loss/{EVIL}": 2.0, "loss/b": 1.0},
    ]
    about = dict.fromkeys(("title", "command", "config_text", "name"), EVIL)
    html = written(
        tmp_path, result, [scene], history=history, extra_results=[(EVIL, result)], **about
    )
    assert "<script" not in html and 'alert("x")' not in html
    assert Page(html).text.count('<script>alert("x")</script> & co') >= 15


def test_results_side_by_side(tmp_path: Path) -> None:
    student, teacher = a_result(quality=0.6), a_result(quality=0.9)
    other = a_result(("ignore", "car", "pedestrian", "zeppelin"), dataset="mine")
    extra = [("teacher", teacher), ("three classes", other)]
    html = written(tmp_path, student, extra_results=extra, name="student")
    page = Page(html)
    for name in ("student", "teacher", "three classes"):
        assert ("th", {"scope": "col"}) in page.elements and f'<th scope="col">{name}</th>' in html
    row = re.search(r"barrier</th>(.*?)</tr>", html).group(1)
    assert row.count("–") == 1  # the third model does not know barriers
    best = re.search(r'<td class="?best"?>.*?<b>([\d.]+)</b>', row).group(1)
    assert best == f"{100 * teacher.iou['barrier']:.1f}"
    assert f"teacher, {100 * (teacher.miou - student.miou):.1f} above" in page.text


def test_absent_class_is_a_dash_not_a_zero(tmp_path: Path) -> None:
    html = written(tmp_path, a_result())
    row = re.search(r"vegetation</th>(.*?)</tr>", html).group(1)
    assert row.startswith('<td><span class="none">–</span></td>')


def test_empty_evaluation_still_makes_a_page(tmp_path: Path) -> None:
    result = EvaluationResult.from_score(
        SegmentationScore(3),
        classes=("ignore", "a", "b"),
        dataset="mine",
        split="val",
        num_scans=0,
        num_points=0,
        seconds=0.0,
        checkpoint="x.pt",
        checkpoint_sha256="",
        command="",
        votes=12,
    )
    page = Page(written(tmp_path, result, config_text=""))
    assert "nan" not in page.text.lower()
    assert "12 augmented passes" in page.text


def test_scenes_over_the_budget_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(tmp_path, a_result(), [a_scene(f"scene-{i}") for i in range(3)])
    one = len(written(tmp_path, a_result(), [a_scene("scene-0")])) - len(
        written(tmp_path, a_result())
    )
    monkeypatch.setattr(report, "PICTURE_BUDGET", int(1.5 * one))
    html = written(tmp_path, a_result(), [a_scene(f"scene-{i}") for i in range(3)])
    assert len(html) < len(whole) - one
    assert (
        "scene-0" in html
        and "scene-1" not in html
        and "Left out to keep this page small: 2 more scans." in html
    )


def test_provenance_comes_from_the_run_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "git.json", {"commit": "c0ffee" * 6, "dirty": True, "torch": "9.9.9"})
    text = Page(written(tmp_path, a_result(), config_text="not: [yaml")).text
    assert (
        "c0ffee" * 6 + " with local changes" in text
        and "9.9.9" in text
        and "Seed0 (default)" in text
    )


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        written(tmp_path / "file", a_result())


def test_scene_of_mismatched_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="scene-9 has 3 points, but prediction has 2"):
        ScenePicture("scene-9", np.zeros((3, 3)), np.zeros(3, np.uint8), np.zeros(2, np.uint8))


def test_line_chart_scales_to_its_frame() -> None:
    chart = line_chart("Loss", [("loss", [0, 10], [1.0, 3.0])])
    points = re.search(r'<polyline class="curve s0" points="([^"]*)"', chart).group(1).split()
    ((x0, y0), (x1, y1)) = ([float(v) for v in p.split(",")] for p in points)
    # frame 46..428 across, 12..214 down; y runs from 0.9 to 3.1 (5 % margins), so 1.0 sits at 1/22 of 202 px
    assert (x0, x1) == (46.0, 428.0)
    assert y0 == pytest.approx(214 - 202 / 22, abs=0.06) and y1 == pytest.approx(
        12 + 202 / 22, abs=0.06
    )


def test_long_histories_are_averaged_and_spread_is_kept() -> None:
    values = np.tile([0.0, 1.0], 5000)
    chart = line_chart("Loss", [("loss", np.arange(10_000), values)])
    curve = re.search(r'<polyline[^>]*points="([^"]*)"', chart).group(1).split()
    assert len(curve) <= 160 and 'class="band' in chart
    middle = [float(p.split(",")[1]) for p in curve]
    assert max(middle) - min(middle) < 5  # the mean stays at one half
    assert len(chart) < 20_000


def test_curves_choose_scores_and_leave_out_what_is_not_finite() -> None:
    history = [
        {"global_step": 1, "epoch_num": 1, "loss/total": math.nan, "loss/ce": 1.0, "lr": 0.1},
        {
            "global_step": 2,
            "epoch_num": 1,
            "loss/total": 2.0,
            "iou/val/vox": 40.0,
            "iou/val/vox/car": 80.0,
        },
        {"global_step": 3, "epoch_num": 2, "loss/total": "?", "iou/val/vox": 50.0},
        {"global_step": 3, "epoch_num": 2, "val_loss/total": 1.5},
    ]
    figures = curves(history)
    assert re.findall(r"<figcaption>([^<]*)", figures) == [
        "Training loss",
        "Loss terms",
        "Loss on the validation split",
        "mIoU on the validation split, %",
        "Learning rate",
    ]
    assert "nan" not in figures and "car" not in figures and "iou/val/vox: 50" in figures
    assert curves([]) == ""


def test_confusion_chart_divides_rows_by_their_sum() -> None:
    counts = np.array([[9, 9, 9], [0, 3, 1], [0, 0, 0]])
    chart = confusion_chart(counts, ("ignore", "car", "road"))
    assert re.findall(r'class="share[^"]*"[^>]*>(\d+)<', chart) == ["75", "25"]
    assert re.findall(r"<title>([^<]*)", chart) == ["car → car: 75.00 %", "car → road: 25.00 %"]
    assert (
        chart.count(">ignore<") == 0 and "faded" in chart
    )  # nothing predicted so; road has no truth
    counts[1, 0] = 4
    assert confusion_chart(counts, ("ignore", "car", "road")).count(">ignore<") == 1
