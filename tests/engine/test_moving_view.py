"""The page of moving objects: its counts against NumPy's, its pictures, and its buttons in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from PIL import Image

from core.engine.report.animation import ANIMATIONS, encode_animation
from core.engine.report.outcomes import (
    COLORS,
    FALSE,
    HIT,
    MISSED,
    REST,
    UNCOUNTED,
    outcomes,
    scan_from_above,
)
from core.engine.score import moving_view
from core.engine.visualise import main
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "pandaset_mos"
KEYS = ("hits", "false", "missed")
MOVED = """const slider = document.getElementById("slider");
return new Promise((done) => {
  const look = () => (slider.value === "0" ? setTimeout(look, 20) : done(slider.value));
  look();
});"""  # ends when the slider has left its beginning; the driver's own limit is 30 s


def sequence(root: Path, folder: Path, count: int) -> list[dict[str, int]]:
    """Write predictions with errors for the two scans of the val sequence, taken in turn; their counts."""
    drive, given = folder / "data/sequences/08", root / "sequences/08"
    rng = np.random.default_rng(0)
    expected = []
    for name in ("velodyne", "labels"):
        (drive / name).mkdir(parents=True)
    (folder / "sequences/08/predictions").mkdir(parents=True)
    for name in ("calib.txt", "poses.txt", "times.txt"):
        if (given / name).is_file():
            (drive / name).write_bytes((given / name).read_bytes())
    for frame in range(count):
        for name, suffix in (("velodyne", "bin"), ("labels", "label")):
            content = (given / f"{name}/{frame % 2:06d}.{suffix}").read_bytes()
            (drive / f"{name}/{frame:06d}.{suffix}").write_bytes(content)
        ids = np.fromfile(drive / f"labels/{frame:06d}.label", "<u4") & 0xFFFF
        moves, known = ids >= 252, ids > 1
        found = moves ^ (rng.random(len(ids)) < 0.1 * (frame + 1))
        path = folder / f"sequences/08/predictions/{frame:06d}.label"
        np.where(found, 251, 9).astype("<u4").tofile(path)
        cases = (moves & found, known & ~moves & found, moves & ~found)
        expected.append({key: int(case.sum()) for key, case in zip(KEYS, cases)})
    return expected


def page_data(page: Path) -> dict:
    text = page.read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def shown(tiny_kitti: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("moving")
    expected = sequence(tiny_kitti, folder, 4)
    main(["moving", str(folder), "--root", str(folder / "data"), "--film", "gif"])
    return folder / "moving", expected


def test_the_cases_of_points():
    truth = np.array([0, 0, 1, 1, 2, 2, 2, 1])
    predicted = np.array([2, 1, 1, 2, 2, 1, 0, 0])
    found = outcomes(truth, predicted, 2)
    assert found.tolist() == [UNCOUNTED, UNCOUNTED, REST, FALSE, HIT, MISSED, MISSED, REST]


def test_a_lost_object_is_seen_above_what_rests():
    points = np.array([(10, 20, 5), (10, 20, 0), (-30, -30, 0)], np.float32)
    picture = scan_from_above(points, np.array([REST, MISSED, HIT], np.uint8), 50.0)
    rows, columns = np.nonzero((picture == COLORS[MISSED]).all(2))
    assert abs(rows.mean() - 450 * 30 / 50) < 2 and abs(columns.mean() - 450 * 60 / 50) < 2
    assert len(rows) >= 9 and (picture == COLORS[HIT]).all(2).sum() == len(rows)
    assert not (picture == COLORS[REST]).all(2).any()


def test_the_page_counts_what_numpy_counts(shown):
    folder, expected = shown
    data = page_data(folder / "moving.html")
    assert [scan["token"] for scan in data["scans"]] == [f"08/{frame:06d}" for frame in range(4)]
    total = dict.fromkeys(KEYS, 0)
    for scan, counts in zip(data["scans"], expected):
        assert {key: scan[key] for key in KEYS} == counts
        hits, union = counts["hits"], sum(counts.values())
        assert scan["iou"] == pytest.approx(100 * hits / union)
        assert scan["precision"] == pytest.approx(100 * hits / (hits + counts["false"]))
        assert scan["recall"] == pytest.approx(100 * hits / (hits + counts["missed"]))
        for key in KEYS:
            total[key] += counts[key]
    assert {key: data["overall"][key] for key in KEYS} == total
    assert data["overall"]["iou"] == pytest.approx(100 * total["hits"] / sum(total.values()))


def test_the_page_asks_nothing_of_the_network(shown):
    text = (shown[0] / "moving.html").read_text()
    assert "default-src 'none'" in text and "script-src 'sha256-" in text
    without_names = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|src=\"(?!data:)|@import", without_names)


def test_pictures_and_film(shown):
    folder, _ = shown
    pictures = sorted(path.name for path in (folder / "08").iterdir())
    assert pictures == [f"{frame:06d}.png" for frame in range(4)]
    image = np.asarray(Image.open(folder / "08/000003.png").convert("RGB"))
    for case in (HIT, FALSE, MISSED):
        assert (image == COLORS[case]).all(2).any()
    with Image.open(folder / "moving.gif") as film:
        assert film.n_frames == 4 and film.info["duration"] == 100


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_films_keep_their_frames(kind):
    frames = [np.full((8, 12, 3), value, np.uint8) for value in (0, 120, 240)]
    with Image.open(io.BytesIO(encode_animation(frames, kind, 20.0))) as film:
        assert film.n_frames == 3 and film.size == (12, 8)
        for number, frame in enumerate(frames):
            film.seek(number)
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - frame).max() <= 4
    for wrong in ([frames[0], frames[0][:4]], []):
        with pytest.raises(ValueError, match="all of one size"):
            encode_animation(wrong, kind, 20.0)


def test_in_a_browser_it_steps_by_keys_buttons_and_address(shown):
    folder, expected = shown
    with browser() as window:
        window.open(folder / "moving.html", "#scan=08/000002")
        assert window.text("#token") == "08/000002"
        counts = expected[2]
        iou = 100 * counts["hits"] / sum(counts.values())
        assert f"moving IoU{iou:.1f} %" in window.text("#facts")
        window.press("\ue014")  # arrow right
        assert window.text("#token") == "08/000003"
        window.press("\ue014")
        assert window.text("#token") == "08/000003"
        window.press("\ue011")  # home
        assert window.text("#token") == "08/000000"
        window.click("#next")
        assert window.text("#place") == "scan 2 of 4"
        assert window.run("return location.hash") == "#scan=08/000001"
        window.press("w")
        ious = [c["hits"] / sum(c.values()) for c in expected]
        assert window.text("#token") == f"08/{int(np.argmin(ious)):06d}"
        window.press("\ue011")
        window.press(" ")
        assert window.text("#play") == "Pause"
        assert window.run(MOVED) != "0"
        width = "return document.getElementById('picture').naturalWidth"
        assert window.run(width) == 900
        window.open(folder / "moving.html", "#scan=%E0%A4%A")
        assert window.text("#token") == "08/000000"
        assert window.errors() == []


def test_scans_are_chosen_and_those_without_predictions_left_out(tiny_kitti, tmp_path, capsys):
    sequence(tiny_kitti, tmp_path, 4)
    (tmp_path / "sequences/08/predictions/000001.label").unlink()
    options = ["--root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    moving = ["moving", str(tmp_path), *options]
    main([*moving, "--first", "1", "--count", "1", "--film", "none"])
    assert "moving IoU" in capsys.readouterr().out
    data = page_data(tmp_path / "out/moving.html")
    assert [scan["token"] for scan in data["scans"]] == ["08/000002"]
    assert not list((tmp_path / "out").glob("moving.w*"))
    with pytest.raises(UserError, match="no sequence '05'"):
        main([*moving, "--sequence", "05"])
    with pytest.raises(UserError, match=r"3 scans with predictions, and the first 3"):
        main([*moving, "--first", "3"])
    with pytest.raises(UserError, match="expected a positive number"):
        main([*moving, "--every", "0"])
    with pytest.raises(UserError, match="is called 'moving'"):
        main([*moving, "--labels", "semantickitti"])
    short = tmp_path / "sequences/08/predictions/000000.label"
    short.write_bytes(short.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"000000\.label.*predictions for the"):
        main(moving)
    with pytest.raises(UserError, match="no file of predictions for 4 scans"):
        main(["moving", str(tmp_path / "elsewhere"), *options])


def test_the_film_of_a_long_sequence_leaves_scans_out(tiny_kitti, tmp_path, monkeypatch):
    sequence(tiny_kitti, tmp_path, 4)
    monkeypatch.setattr(moving_view, "_FILM_FRAMES", 3)
    root = str(tmp_path / "data")
    main(["moving", str(tmp_path), "--root", root, "--film", "gif", "--rate", "10"])
    assert len(list((tmp_path / "moving/08").iterdir())) == 4
    with Image.open(tmp_path / "moving/moving.gif") as film:
        assert film.n_frames == 2 and film.info["duration"] == 200


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans; set LIDISTILL_REALDATA")
def test_real_scans_count_their_moving_points(tmp_path):
    folder = tmp_path / "sequences/08/predictions"
    folder.mkdir(parents=True)
    for path in sorted((REAL / "sequences/08/labels").iterdir())[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    main(["moving", str(tmp_path), "--root", str(REAL), "--film", "none"])
    scans = page_data(tmp_path / "moving/moving.html")["scans"]
    assert [scan["hits"] for scan in scans] == [5807, 5775]  # as counted when the scans were made
    assert all(scan["iou"] == 100 and scan["false"] == scan["missed"] == 0 for scan in scans)
    image = np.asarray(Image.open(tmp_path / "moving/08/000000.png").convert("RGB"))
    assert (image == COLORS[HIT]).all(2).sum() > 1000


def test_a_run_folder_is_known_by_its_predictions(tiny_kitti, tmp_path):
    sequence(tiny_kitti, tmp_path / "run/predictions/val", 2)
    root = tmp_path / "run/predictions/val/data"
    main(["moving", str(tmp_path / "run"), "--root", str(root), "--film", "none"])
    assert (tmp_path / "run/moving/moving.html").is_file()
