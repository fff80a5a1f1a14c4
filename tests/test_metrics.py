"""Scores against independent float64 versions of the official procedures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.engine.score.jobs import print_result
from core.errors import UserError
from core.metrics import Confusion, EvaluationResult, SegmentationScore


def random_points(
    num_classes: int, count: int = 20_000, seed: int = 0, low: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, truth): truth from every class, predictions right about half of the time."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, count)
    noise = rng.integers(low, num_classes, count)
    prediction = np.where(rng.random(count) < 0.5, np.maximum(truth, low), noise)
    return prediction, truth


def filled(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> Confusion:
    confusion = Confusion(num_classes)
    confusion.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    return confusion


def kitti_api_iou(
    prediction: np.ndarray, truth: np.ndarray, num_classes: int
) -> tuple[float, np.ndarray]:
    """The procedure of semantic-kitti-api's ``iouEval`` with ignore=[0], point by point in float64.

    Its matrix is indexed [prediction, truth]; the truth column of "ignore" is cleared, and IoU averages over the other
    classes with an epsilon under the fraction.
    """
    matrix = np.zeros((num_classes, num_classes), np.float64)
    for p, t in zip(prediction, truth):
        matrix[p, t] += 1
    matrix[:, 0] = 0
    hits = np.diag(matrix)
    false_positives = matrix.sum(1) - hits
    false_negatives = matrix.sum(0) - hits
    iou = hits / (hits + false_positives + false_negatives + 1e-15)
    return float(iou[1:].mean()), iou[1:]


def test_equals_semantic_kitti_api() -> None:
    prediction, truth = random_points(20)
    assert (prediction == 0).sum() > 100  # "ignore" is predicted on valid points too
    mean, per_class = kitti_api_iou(prediction, truth, 20)
    confusion = filled(prediction, truth, 20)
    assert confusion.miou() == pytest.approx(mean, abs=1e-12)
    assert confusion.miou("zero") == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(confusion.iou()[1:].numpy(), per_class, atol=1e-12)


def test_absent_classes_count_zero_in_semantic_kitti_api() -> None:
    prediction, truth = random_points(20, seed=1)
    truth[np.isin(truth, (4, 7))] = 3
    prediction[prediction == 7] = 2  # 4 is predicted, 7 never
    mean, _ = kitti_api_iou(prediction, truth, 20)
    assert filled(prediction, truth, 20).miou("zero") == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("absent", [(), (3,), (3, 9)])
def test_equals_nuscenes_devkit_matrix(absent: tuple[int, ...]) -> None:
    devkit = pytest.importorskip("nuscenes.eval.lidarseg.utils")
    prediction, truth = random_points(17, seed=2, low=1)  # the devkit refuses predictions of 0
    truth[np.isin(truth, absent)] = 1
    prediction[prediction == 9] = 2 if 9 in absent else 9
    official = devkit.ConfusionMatrix(17, ignore_idx=0)
    official.update(truth, prediction)
    confusion = filled(prediction, truth, 17)
    assert confusion.miou("nanmean") == pytest.approx(official.get_mean_iou(), abs=1e-6)
    np.testing.assert_allclose(confusion.iou().numpy(), official.get_per_class_iou(), atol=1e-6)
    if not absent:
        assert confusion.miou() == pytest.approx(official.get_mean_iou(), abs=1e-6)


def test_equals_nuscenes_devkit_on_files(tiny_nuscenes: Path, tmp_path: Path) -> None:
    """The whole official evaluator, on prediction files of a small validation split."""
    from nuscenes import NuScenes
    from nuscenes.eval.lidarseg.evaluate import LidarSegEval

    nusc = NuScenes("v1.0-mini", str(tiny_nuscenes), verbose=False)
    folder = tmp_path / "lidarseg" / "mini_val"
    folder.mkdir(parents=True)
    placeholder = {sample["data"]["LIDAR_TOP"] for sample in nusc.sample}
    for token in placeholder:
        np.zeros(1, np.uint8).tofile(folder / f"{token}_lidarseg.bin")
    official = LidarSegEval(nusc, str(tmp_path), "mini_val")
    rng = np.random.default_rng(5)
    score = SegmentationScore(17)
    for token in official.sample_tokens:
        lidar = nusc.get("sample", token)["data"]["LIDAR_TOP"]
        fine = np.fromfile(tiny_nuscenes / nusc.get("lidarseg", lidar)["filename"], np.uint8)
        truth = official.mapper.convert_label(fine)
        prediction = np.where(
            rng.random(len(truth)) < 0.6, np.maximum(truth, 1), rng.integers(1, 17, len(truth))
        )
        prediction.astype(np.uint8).tofile(folder / f"{lidar}_lidarseg.bin")
        distance = torch.from_numpy(rng.random(len(truth), np.float32) * 80)
        score.update(torch.from_numpy(prediction), torch.from_numpy(truth), distance)
    expected = official.evaluate()
    assert score.overall.miou("nanmean") == pytest.approx(expected["miou"], abs=1e-6)
    names = [official.id2name[c] for c in range(17)]
    ours = dict(zip(names, score.overall.iou().tolist()))
    for name in names[1:]:
        assert ours[name] == pytest.approx(expected["iou_per_class"][name], abs=1e-6, nan_ok=True)


def test_predicting_ignore_is_a_miss_except_in_the_legacy_score() -> None:
    truth = np.ones(100, np.int64)
    prediction = np.r_[np.ones(60, np.int64), np.zeros(40, np.int64)]
    confusion = filled(prediction, truth, 3)
    assert confusion.miou() == pytest.approx(0.6)
    assert confusion.legacy_miou() == pytest.approx(1.0)


def test_absent_class_modes() -> None:
    """By hand. Class 1: 3 of 4 right -> 3/4. Class 2 absent but predicted once. Class 3 absent and never predicted."""
    confusion = filled(np.array([1, 1, 1, 2]), np.array([1, 1, 1, 1]), 4)
    assert confusion.present().tolist() == [False, True, False, False]
    iou = confusion.iou().tolist()
    assert iou[1:3] == [0.75, 0.0] and math.isnan(iou[0]) and math.isnan(iou[3])
    assert confusion.miou("skip") == pytest.approx(0.75)
    assert confusion.miou("nanmean") == pytest.approx(0.75 / 2)
    assert confusion.miou("zero") == pytest.approx(0.75 / 3)
    assert confusion.miou("one") == pytest.approx(2.75 / 3)
    assert confusion.miou("nan_one") == pytest.approx(1.75 / 3)
    assert math.isnan(filled(np.array([1]), np.array([0]), 4).miou())


@pytest.mark.parametrize("bad", [-1, 4])
def test_ids_out_of_range_are_refused(bad: int) -> None:
    good, wrong, distance = torch.tensor([1, 2]), torch.tensor([1, bad]), torch.zeros(2)
    with pytest.raises(ValueError, match=r"expected 0\.\.3"):
        Confusion(4).update(wrong, good)
    with pytest.raises(ValueError, match=r"expected 0\.\.3"):
        SegmentationScore(4).update(good, wrong, distance)


def test_range_bins() -> None:
    distance = torch.tensor([0.0, 20.0, 20.01, 50.0, 50.01, 300.0])
    truth = torch.tensor([1, 2, 1, 2, 1, 2])
    prediction = torch.tensor([1, 1, 1, 2, 1, 1])
    score = SegmentationScore(3)
    score.update(prediction[:3], truth[:3], distance[:3])
    score.update(prediction[3:], truth[3:], distance[3:])
    assert [c.counts.tolist() for c in score.ranges] == [
        [[0, 0, 0], [0, 1, 0], [0, 1, 0]],
        [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 1, 0], [0, 1, 0]],
    ]
    assert score.overall.counts.tolist() == [[0, 0, 0], [0, 3, 0], [0, 2, 1]]


def _summed(rank: int, folder: Path) -> list:
    """Counts after ``all_reduce`` in one of two processes; each has seen another point."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    try:
        score = SegmentationScore(3)
        score.update(torch.tensor([1]), torch.tensor([1 + rank]), torch.tensor([1.0 + 60 * rank]))
        score.all_reduce()
    finally:
        torch.distributed.destroy_process_group()
    return score.counts.tolist()


def _second_process(folder: Path) -> None:
    (folder / "second.json").write_text(json.dumps(_summed(1, folder)))


def test_all_reduce_sums_over_processes(tmp_path: Path) -> None:
    other = torch.multiprocessing.get_context("spawn").Process(
        target=_second_process, args=(tmp_path,)
    )
    other.start()
    first = _summed(0, tmp_path)
    other.join()
    empty = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    expected = [[[0, 0, 0], [0, 1, 0], [0, 0, 0]], empty, [[0, 0, 0], [0, 0, 0], [0, 1, 0]]]
    assert [first, json.loads((tmp_path / "second.json").read_text())] == [expected, expected]


def a_result() -> EvaluationResult:
    score = SegmentationScore(4)
    score.update(
        torch.tensor([1, 1, 2, 0]), torch.tensor([1, 2, 2, 1]), torch.tensor([5.0, 25.0, 25.0, 5.0])
    )
    return EvaluationResult.from_score(
        score,
        classes=("ignore", "car", "road", "tree"),
        dataset="town",
        split="val",
        num_scans=1,
        num_points=4,
        seconds=0.5,
        checkpoint="last.pt",
        checkpoint_sha256="ab" * 32,
        command="python evaluate.py",
    )


def test_result_round_trip_and_derived_scores() -> None:
    result = a_result()
    # car: 1 hit, 1 miss (predicted ignore), 1 false alarm -> 1/3. road: 1 hit, 1 miss -> 1/2. tree absent.
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert value["miou"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert value["iou"] == {"car": pytest.approx(100 / 3), "road": 50.0, "tree": None}
    assert value["classes_scored"] == 2
    assert value["miou_by_range"] == {"0-20": 50.0, "20-50": 50.0, "50+": None}
    assert value["miou_legacy"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert EvaluationResult.from_json(value) == result


def test_files_of_earlier_versions_call_subsets_views() -> None:
    counts = a_result().confusion
    value = a_result().to_json()
    del value["subsets"], value["absent"]
    result = EvaluationResult.from_json(value | {"views": {"in view": counts}})
    assert result.by_subset["in view"].counts.tolist() == counts and result.absent == "skip"


def test_a_benchmarks_own_mean_and_subsets_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = replace(a_result(), absent="nan_one", subsets={"first return": a_result().confusion})
    # car 1/3, road 1/2; tree is nowhere: 1 in the tool's mean
    assert result.to_json()["miou_official"] == pytest.approx(100 * (1 / 3 + 1 / 2 + 1) / 3)
    print_result(result, None, legacy=False)
    assert capsys.readouterr().out == (
        "mIoU 41.67 (the benchmark's own tool: 61.11, first return: 41.67) on town val, 1 scan\n"
    )
    print_result(a_result(), None, legacy=False)
    assert capsys.readouterr().out == "mIoU 41.67 on town val, 1 scan\n"


def test_result_refuses_damaged_json() -> None:
    value = a_result().to_json()
    with pytest.raises(UserError, match=r"scores.json.*key 'split' is missing"):
        EvaluationResult.from_json({k: v for k, v in value.items() if k != "split"}, "scores.json")
    with pytest.raises(UserError, match="'confusion' is not 4 x 4"):
        EvaluationResult.from_json(value | {"confusion": [[1, 2], [3, 4]]})


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("confusion", 5),
        ("confusion", [[1, 2], [3, "4"]]),
        ("confusion", [[1, 2], [3, -4]]),
        ("confusion", [[1, 2], [3, 1 << 64]]),
        ("ranges", [[1]]),
        ("classes", "abcd"),
        ("num_scans", 1.5),
        ("num_points", None),
        ("checkpoint_sha256", 7),
    ],
)
def test_result_of_wrong_types_names_the_key(key: str, wrong: object) -> None:
    with pytest.raises(UserError, match=rf"scores\.json: key '{key}"):
        EvaluationResult.from_json(a_result().to_json() | {key: wrong}, "scores.json")


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_result_that_is_no_object(value: object) -> None:
    with pytest.raises(UserError, match=r"scores\.json"):
        EvaluationResult.from_json(value, "scores.json")
