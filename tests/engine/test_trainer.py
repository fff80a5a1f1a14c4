"""The training loop in this process: accumulation, averaged weights, mixed precision, run folder, evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from folder_world import write_world

from core.config import load_config
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.distributed import World
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.train.continuing import _check_same_numbers
from core.engine.train.jobs import train_teacher
from core.errors import UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


def run(config: Path, folder: Path, *overrides: str) -> list[dict]:
    train_teacher(
        World(),
        load_config(config, ["--num_epochs", "2", "--eval.pictures", "0", *overrides]),
        folder,
    )
    return [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_what_it_promises(config, tmp_path, capsys):
    records = run(config, tmp_path, "--num_epochs", "6")
    losses = [r["loss/total"] for r in records if "loss/total" in r]
    assert len(losses) == 24 and sum(losses[-4:]) < 0.5 * sum(losses[:4])
    for name in (
        "config.yaml",
        "git.json",
        "log",
        "tensorboard",
        "report.html",
        "evaluation-val.json",
        "checkpoints/last.pt",
    ):
        assert (tmp_path / name).exists(), name
    assert (tmp_path / "checkpoints" / "best.pt").samefile(
        tmp_path / "checkpoints" / "max-iou-val-vox.pt"
    )
    result = json.loads((tmp_path / "evaluation-val.json").read_text())
    best = max(r["iou/val/vox"] for r in records if "iou/val/vox" in r)
    assert result["miou"] == pytest.approx(
        best, abs=1e-9
    )  # the report scores the best checkpoint, anew
    assert result["num_scans"] == 3 and result["num_points"] == 3 * 699
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"mIoU {best:.2f} on Folder val, 3 scans  report: {tmp_path / 'report.html'}"


def test_accumulation_is_one_step_of_several_batches(config, tmp_path):
    records = [
        r
        for r in run(config, tmp_path, "--train.accumulate", "3", "--batch_size", "1")
        if "loss/total" in r
    ]
    assert [r["local_step"] for r in records] == [1, 2, 3, 1, 2, 3]  # 8 scans: 3 + 3 + 2
    assert read_checkpoint(tmp_path / "checkpoints" / "last.pt")["scheduler"]["last_epoch"] == 6


def test_accumulated_gradient_is_the_mean_of_the_batches(config, tmp_path):
    """With frozen statistics and one scan per batch, accumulating 8 equals the mean of 8 single-scan gradients."""
    from core.engine.run.context import Context
    from core.engine.run.experiment import Experiment
    from core.engine.run.run_dir import RunDir
    from core.engine.train.jobs import build_trainer

    tree = load_config(
        config,
        [
            "--batch_size",
            "1",
            "--train.accumulate",
            "8",
            "--optimizer.name",
            "sgd",
            "--model.dropout",
            "0",
        ],
    )
    context = Context.open(tree, World())
    dataset = context.dataset("train")
    criterion = Experiment.from_config(tree).criterion_for(dataset.labels.num_classes)
    trainer = build_trainer(context, dataset, RunDir(tmp_path), None)
    model = trainer.method.deployed.eval()
    (group,) = list(trainer.steps)
    expected = torch.zeros_like(model.classifier_vox[0].weight)
    for batch in group:
        loss = sum(criterion(model(batch).logits, batch.labels).values())
        expected += torch.autograd.grad(loss, model.classifier_vox[0].weight)[0] / 8
    trainer.optimizer.zero_grad()
    for i, batch in enumerate(group):
        assert trainer._backward(batch, len(group), last=i == 7) is not None
    torch.testing.assert_close(model.classifier_vox[0].weight.grad, expected, rtol=1e-5, atol=1e-7)


def test_averaged_weights_are_scored_and_resumed(config, tmp_path):
    run(config, tmp_path, "--train.ema", "0.5")
    state = read_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert state["ema_updates"] == 8
    key = "classifier_vox.0.weight"
    assert not torch.equal(state["model"][key], state["train_model"][key])


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_trains(config, tmp_path, dtype):
    records = run(config, tmp_path, "--amp.enabled", "true", "--amp.dtype", dtype)
    losses = [r["loss/total"] for r in records if "loss/total" in r]
    assert losses[-1] < losses[0]
    assert read_checkpoint(tmp_path / "checkpoints" / "last.pt")["identity"]["number_type"] == dtype


def test_auto_goes_on_in_the_number_type_it_began_with_or_says_so(config, tmp_path, monkeypatch):
    """A run under ``auto`` meets a machine of the other kind: an error with a cure, and the cure helps."""
    auto = ("--amp.enabled", "auto", "--train.save_every", "3")
    monkeypatch.setattr("core.engine.run.experiment.native_bf16", lambda: False)
    run(config, tmp_path, *auto)
    monkeypatch.setattr("core.engine.run.experiment.native_bf16", lambda: True)
    with pytest.raises(UserError, match="computes in fp32, and would go on in bf16") as caught:
        run(config, tmp_path, *auto)
    assert "--amp.enabled false" in caught.value.cure
    before = (tmp_path / "scalars.jsonl").read_text()
    run(config, tmp_path, "--amp.enabled", "false")
    assert (tmp_path / "scalars.jsonl").read_text() == before


def test_number_type_of_checkpoints_that_do_not_record_it():
    new = {"number_type": "fp32"}
    _check_same_numbers({"config": {}}, new, Path("run"))
    _check_same_numbers({"config": {"amp": {"enabled": False}}}, new, Path("run"))
    with pytest.raises(UserError, match="computes in bf16"):
        _check_same_numbers({"config": {"amp": {"enabled": True}}}, new, Path("run"))


def test_evaluate_command_writes_json(config, tmp_path, monkeypatch):
    run(config, tmp_path / "run")
    import evaluate

    arguments = [
        "--checkpoint",
        str(tmp_path / "run/checkpoints/last.pt"),
        "--json",
        str(tmp_path / "scores.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(config), *arguments, "--split", "train"])
    evaluate.main()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (
        scores["split"] == "train" and scores["num_scans"] == 8 and scores["iou"]["bicycle"] is None
    )


def test_score_does_not_depend_on_the_batch_size(config, tmp_path):
    run(config, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "last.pt"
    results = [
        evaluate_checkpoint(
            World(), load_config(config, ["--eval.batch_size", size]), best, tmp_path / size
        )
        for size in ("1", "3")
    ]
    assert results[0].confusion == results[1].confusion
