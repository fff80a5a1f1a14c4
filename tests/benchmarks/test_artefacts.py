"""``benchmarks/artefacts.py``: one bit, one file, one name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.artefacts import Finding, compare_folders, read_values


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Of the old and of the new checkout."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    return tmp_path / "old", tmp_path / "new"


def checkpoint(weights: dict[str, torch.Tensor], **parts: object) -> dict[str, object]:
    return {"model": weights, "training_only": {}, "train_model": None, "global_step": 3} | parts


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


def test_equal_but_for_what_belongs_to_one_run(folders: tuple[Path, Path]) -> None:
    for number, folder in enumerate(folders):
        (folder / "log").mkdir()
        (folder / "log" / "rank0.log").write_text(f"started at {number}")
        scores = {"miou": 31.5, "seconds": number, "command": f"python {number}", "extra": {}}
        (folder / "evaluation-val.json").write_text(json.dumps(scores))
        state = checkpoint({"w": torch.ones(2)}, identity={"config": {"key": number}})
        torch.save(state, folder / "last.pt")
    findings = compare_folders(*folders)
    assert [finding.artefact for finding in findings] == ["evaluation-val.json", "last.pt"]
    assert [finding.difference for finding in findings] == [None, None]
    assert all(finding.values for finding in findings)


def test_subsets_are_compared_with_what_was_called_views(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.json").write_text(json.dumps({"views": {"in view": [1, 2]}}))
    (folders[1] / "a.json").write_text(json.dumps({"subsets": {"in view": [1, 3]}, "absent": "x"}))
    difference = only(compare_folders(*folders)).difference
    assert difference is not None and "subsets/in view/1: 2 became 3" in difference
    (folders[1] / "a.json").write_text(json.dumps({"subsets": {"in view": [1, 2]}}))
    assert only(compare_folders(*folders)).difference is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_one_changed_bit_of_a_tensor_is_found(
    folders: tuple[Path, Path], dtype: torch.dtype
) -> None:
    weights = torch.ones(5, 3, dtype=dtype)
    changed = weights.clone()
    changed.view(torch.uint8).flatten()[0] ^= 1
    torch.save(checkpoint({"head.weight": weights}), folders[0] / "last.pt")
    torch.save(checkpoint({"head.weight": changed}), folders[1] / "last.pt")
    difference = only(compare_folders(*folders)).difference
    assert difference is not None and "head.weight: 1 of 15 numbers, max |Δ|" in difference


def test_a_zero_that_changed_its_sign_is_found(folders: tuple[Path, Path]) -> None:
    for folder, value in zip(folders, (0.0, -0.0)):
        torch.save(checkpoint({"w": torch.tensor([value])}), folder / "last.pt")
    assert only(compare_folders(*folders)).difference is not None


def test_optimiser_and_random_state_are_compared(folders: tuple[Path, Path]) -> None:
    for folder, moment in zip(folders, (1.0, 2.0)):
        optimizer = {"state": {0: {"exp_avg": torch.tensor(moment)}}, "param_groups": []}
        torch.save(checkpoint({"w": torch.ones(1)}, optimizer=optimizer), folder / "last.pt")
    difference = only(compare_folders(*folders)).difference
    assert difference is not None and "optimizer/state/0/exp_avg" in difference


def test_a_renamed_prefix_is_no_difference(folders: tuple[Path, Path]) -> None:
    weights = {"stem.weight": torch.randn(4)}
    wrapped = {f"student.{name}": value for name, value in weights.items()}
    torch.save(checkpoint(weights, train_model=weights), folders[0] / "last.pt")
    torch.save(checkpoint(weights, train_model=wrapped), folders[1] / "last.pt")
    assert only(compare_folders(*folders)).difference is None


def test_another_name_of_a_weight_is_found(folders: tuple[Path, Path]) -> None:
    torch.save(checkpoint({"stem.weight": torch.ones(1)}), folders[0] / "last.pt")
    torch.save(checkpoint({"trunk.weight": torch.ones(1)}), folders[1] / "last.pt")
    difference = only(compare_folders(*folders)).difference
    assert difference is not None and "model/stem.weight is missing" in difference


def test_missing_and_new_files_are_found(folders: tuple[Path, Path]) -> None:
    (folders[0] / "000000.label").write_bytes(b"\x01")
    (folders[1] / "000001.label").write_bytes(b"\x01")
    said = [(f.artefact, f.difference) for f in compare_folders(*folders)]
    assert said == [
        ("000000.label", "only the old checkout wrote it"),
        ("000001.label", "only the new checkout wrote it"),
    ]


def test_score_files_may_say_more_but_not_less(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.json").write_text('{"miou": 1.0}')
    (folders[1] / "a.json").write_text('{"miou": 1.0, "recall": 2.0}')
    assert only(compare_folders(*folders)).difference is None
    assert only(compare_folders(*reversed(folders))).difference is not None


def test_scores_and_losses_are_compared_to_the_last_digit(folders: tuple[Path, Path]) -> None:
    for folder, loss in zip(folders, (0.1, 0.1 + 1e-17 + 2e-17)):
        (folder / "scalars.jsonl").write_text(json.dumps({"loss/total": loss, "step_time": 3}))
    difference = only(compare_folders(*folders)).difference
    assert difference is not None and difference.startswith("1 of 1 values differ")


def test_zip_members_count_and_not_their_dates(folders: tuple[Path, Path]) -> None:
    for folder, year in zip(folders, (2001, 2002)):
        with zipfile.ZipFile(folder / "submission.zip", "w") as file:
            file.writestr(zipfile.ZipInfo("a.label", (year, 1, 1, 0, 0, 0)), b"\x01\x02")
    assert only(compare_folders(*folders)).difference is None
    with zipfile.ZipFile(folders[1] / "submission.zip", "w") as file:
        file.writestr("a.label", b"\x01\x03")
    difference = only(compare_folders(*folders)).difference
    assert difference is not None and "a.label: 1 of 2 bytes, the first at 1" in difference


def test_arrays_are_read_without_unpickling(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_values(tmp_path / "a.npy")
