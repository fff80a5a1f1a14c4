"""Votes of several views: sums by hand, one vote is the plain score, and what must not matter does not."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from folder_world import write_world
from made_samples import made_sample
from torch import Tensor, nn

from core.config import load_config
from core.contracts import Batch, Output, Sample
from core.data import ChosenScans, Recipe, VotePlan, VoteSamples, collate, make_sample
from core.engine.commands import read_votes
from core.engine.evaluation_options import evaluation_parser
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.score.evaluation import predictions, score_network
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.opened import Opened
from core.engine.score.prediction import predict_checkpoint
from core.engine.score.segmenter import Segmenter
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor, voted_predictions
from core.errors import UserError
from core.labels import NUSCENES, SEMANTICKITTI, LabelSpace
from core.models import build_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# --- sums by hand ---------------------------------------------------------------------------------------------------
def view(to_voxel: list[int], token: str = "a", index: int = 0, padded: bool = False) -> Sample:
    """One view: points in the voxels as told."""
    rows = np.array(to_voxel, np.int64)
    voxels = int(rows.max(initial=-1)) + 1
    firsts = np.array([int(np.flatnonzero(rows == v)[0]) for v in range(voxels)], np.int64)
    coords = np.c_[np.arange(voxels), np.zeros((voxels, 2))].astype(np.int32)
    feats, truth = np.zeros((voxels, 4), np.float32), np.arange(len(rows)) % 3
    keyframe, distance = np.ones(len(rows), bool), np.full(len(rows), 5.0, np.float32)
    return made_sample(
        token,
        index,
        coords,
        feats,
        truth[firsts],
        rows,
        firsts,
        truth,
        keyframe,
        distance,
        padded=padded,
    )


class Fixed(nn.Module):
    """Answers each batch with the next of given logits."""

    def __init__(self, *answers: list) -> None:
        super().__init__()
        self.answers = iter([torch.as_tensor(answer) for answer in answers])

    def __deepcopy__(self, memo: dict) -> Fixed:
        return self

    def forward(self, batch: Batch) -> Output:
        return Output(next(self.answers))


def vote(network: nn.Module, batches: list[Batch], votes: Votes) -> list[tuple[Batch, Tensor]]:
    return list(
        voted_predictions(network, batches, CPU, contextlib.nullcontext, "voting", votes=votes)
    )


@pytest.mark.parametrize(("how", "winner"), [("logits", 1), ("softmax", 2)])
def test_three_views_by_hand(how, winner) -> None:
    """Logits: 10 for class 1, 3 + 3 for class 2. Probabilities: 1 + 2 * 0.047 against 2 * 0.953."""
    batches = [collate([view([0]), view([0])]), collate([view([0])])]
    network = Fixed([[99.0, 10.0, 0.0], [99.0, 0.0, 3.0]], [[99.0, 0.0, 3.0]])
    ((batch, predicted),) = vote(network, batches, Votes(3, sum=how))
    assert predicted.tolist() == [winner] and batch.tokens == ("a",)


def test_points_take_the_scores_of_their_own_voxel_in_each_view() -> None:
    """Point 0 sits in voxels 0, 1 (class 2, then 2), point 1 in 1, 0, point 2 in none, point 3 in 0, 0."""
    batches = [collate([view([0, 1, -1, 0]), view([1, 0, -1, 0])])]
    first, second = [[0.0, 1.0, 1.5], [0.0, 3.0, 0.0]], [[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    ((batch, predicted),) = vote(Fixed([*first, *second]), batches, Votes(2, sum="logits"))
    # sums of classes 1 and 2: point 0: 1, 2.5; point 1: 5, 0; point 3: 3, 1.5
    assert predicted.tolist() == [2, 1, 0, 1]
    assert (
        batch.point_to_voxel.tolist() == [0, 1, -1, 0]
        and len(batch.coords) == 2
        and len(batch) == 1
    )
    assert batch.voxel_offsets.tolist() == [0, 2] and batch.point_offsets.tolist() == [0, 4]


def test_scans_follow_one_another_and_padding_stays_marked() -> None:
    batches = [collate([view([0], token, i, i == 1)] * 2) for i, token in enumerate("ab")]
    found = vote(Fixed([[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]), batches, Votes(2))
    assert [(batch.tokens, batch.indices, batch.padded) for batch, _ in found] == [
        (("a",), (0,), (False,)), (("b",), (1,), (True,)),
    ]  # fmt: skip


def test_scan_without_a_voxel() -> None:
    ((_, predicted),) = vote(Fixed(torch.zeros(0, 3)), [collate([view([-1])] * 2)], Votes(2))
    assert predicted.tolist() == [0]


class Scored(nn.Module):
    """Scores points, in a cell or not: class 2 everywhere."""

    def forward(self, batch: Batch) -> Output:
        of_points = torch.tensor([[0.0, 0.0, 1.0]]).repeat(len(batch.distance), 1)
        return Output(torch.zeros(len(batch.coords), 3), point_logits=of_points)


@pytest.mark.parametrize("count", [1, 2])
def test_points_that_are_scored_themselves_need_no_cell(count) -> None:
    batch = collate([view([0, -1])] * count)
    if count == 1:
        ((_, predicted),) = predictions(Scored(), [batch], CPU, contextlib.nullcontext, "plain")
    else:
        ((_, predicted),) = vote(Scored(), [batch], Votes(count))
    assert predicted.tolist() == [2, 2]


def test_views_that_could_not_be_made() -> None:
    batches = [collate([view([0], "a")]), collate([view([0], "b")])]
    with pytest.raises(UserError, match="views of scan a could not be made; b came"):
        vote(Fixed([[0.0, 1.0]], [[0.0, 1.0]]), batches, Votes(2, chunk=1))


def test_wrong_numbers() -> None:
    with pytest.raises(UserError, match=r"--votes: 0 is no number of views"):
        Votes(0)
    with pytest.raises(UserError, match=r"--vote-chunk: -1"):
        Votes(2, chunk=-1)
    with pytest.raises(UserError, match=r"--vote-flips: only fixed .*eval\.vote_augment\.flip"):
        Votes(2, "legacy_random", flips=True)
    with pytest.raises(UserError, match=r"--vote-flips: only fixed .*these views are mirrored"):
        Votes(4, "mirrors", flips=True)
    with pytest.raises(UserError, match=r"--vote-flips: only fixed .*these views are as recorded"):
        Votes(4, "points", flips=True)
    with pytest.raises(UserError, match=r"--votes: 6 views are not 4 mirrors.*multiple of 4"):
        Votes(6, "mirrors")
    with pytest.raises(UserError, match=r"--votes: PVKD's .* 4 views, not 8.*--vote-mode mirrors"):
        Votes(8, "legacy_cumulative")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--votes", "4"], Votes(4)),
        (["--votes", "8", "--vote-mode", "mirrors"], Votes(8, "mirrors")),
        (["--votes", "8", "--vote-mode", "points"], Votes(8, "points")),
        (["--votes", "4", "--vote-sum", "logits"], Votes(4, sum="logits")),
        (["--votes", "3", "--vote-mode", "legacy_random"], Votes(3, "legacy_random")),
        (
            ["--votes", "4", "--vote-mode", "legacy_cumulative"],
            Votes(4, "legacy_cumulative", "logits"),
        ),
        (
            ["--votes", "4", "--vote-mode", "legacy_cumulative", "--vote-sum", "softmax"],
            Votes(4, "legacy_cumulative"),
        ),
    ],
)
def test_options_of_votes(options: list[str], expected: Votes) -> None:
    given = ["score", "c.yaml", "--checkpoint", "net.pt", *options]
    assert read_votes(evaluation_parser("").parse_args(given)) == expected


def test_views_at_a_time_suit_the_device() -> None:
    assert [Votes(12).chunk_on(torch.device(kind)) for kind in ("cpu", "cuda")] == [1, 4]
    assert Votes(12, chunk=3).chunk_on(CPU) == 3


# --- a network on a data set ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a folder data set with points out of range, and beside it ``net.pt``, random weights."""
    path = write_world(tmp_path_factory.mktemp("voting") / "world")
    tree = yaml.safe_load(path.read_text()) | {"model": {"name": "minkunet", "cr": 0.25}}
    tree["data"] |= {"point_range": [-15, -15, -5, 15, 15, 5]}
    path.write_text(yaml.safe_dump(tree))
    config = load_config(path)
    torch.manual_seed(0)
    network = build_model(config, 20, pretrained=False)
    identity = {
        "fingerprint": SEMANTICKITTI.fingerprint,
        "classes": list(SEMANTICKITTI.classes),
        "config": config.tree,
    }
    torch.save(
        {"model": network.state_dict(), "training_only": {}, "identity": identity},
        path.parent / "net.pt",
    )
    return path


def network_of(context: Context, labels: LabelSpace, checkpoint: Path) -> nn.Module:
    return Opened.of(context.world, context.config, checkpoint).network(labels)


def voted(
    world: Path, votes: Votes, indices: list[int] | None = None, rank: int = 0, size: int = 1
) -> dict:
    """Token -> train ids of the validation scans."""
    context = Context.open(load_config(world), World())
    scans = context.dataset("val")
    network = network_of(context, scans.labels, world.parent / "net.pt")
    part = Context(context.config, context.experiment, World(rank=rank, size=size))
    loader, predict = loader_and_predictor(part, scans, context.data, votes, indices)
    segmenter = Segmenter(network, scans.labels, context.data, context.experiment, CPU)
    return dict(segmenter.predict_loader(loader, predict, {}))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all((one[token] == other[token]).all() for token in one)


def test_one_vote_is_the_plain_score(world, tmp_path) -> None:
    results = [
        evaluate_checkpoint(
            World(), load_config(world), world.parent / "net.pt", tmp_path / str(i), votes=votes
        )
        for i, votes in enumerate((PLAIN, Votes(1, "legacy_random", "logits", 3)))
    ]
    assert results[0].confusion == results[1].confusion and results[1].votes == 1
    assert sum(map(sum, results[0].confusion)) == results[0].num_points == 3 * 699


def test_identity_view_through_the_vote_equals_the_plain_prediction(world) -> None:
    context = Context.open(load_config(world), World())
    scans = context.dataset("val")
    network = network_of(context, scans.labels, world.parent / "net.pt")
    plain = context.loader_of(ChosenScans(scans, context.data, range(3)), training=False)
    views = context.loader_of(VoteSamples(scans, context.data, VotePlan(1), 1), training=False)
    for how in ("logits", "softmax"):
        predict = partial(voted_predictions, votes=Votes(1, sum=how))
        expected = score_network(network, plain, 20, World(), context.autocast)[0]
        score = score_network(network, views, 20, World(), context.autocast, None, predict)[0]
        assert (
            torch.equal(score.counts, expected.counts)
            and int(expected.overall.counts.sum()) == 3 * 699
        )


def test_votes_equal_a_dense_sum_in_float64(world) -> None:
    """Each view on its own through the network, probabilities summed in float64."""
    context = Context.open(load_config(world), World())
    scans = context.dataset("val")
    network = network_of(context, scans.labels, world.parent / "net.pt")
    scan, total = scans.load(0), 0
    for k in range(5):
        sample = make_sample(scan, 0, context.data, change=VotePlan(5).of(0)[k])
        ((_, logits),) = raw_logits(network, collate([sample]))
        scores = np.where(np.arange(20) == 0, -np.inf, logits.double().numpy())
        chances = np.exp(scores - scores.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        total += np.where(sample.point_to_voxel[:, None] >= 0, chances[sample.point_to_voxel], 0)
    best = np.where(sample.point_to_voxel >= 0, total.argmax(1), 0)
    margin = np.sort(total, 1)[:, -1] - np.sort(total, 1)[:, -2]
    sure = (margin > 1e-4) | (sample.point_to_voxel < 0)
    found = voted(world, Votes(5), [0])["008"]
    assert sure.mean() > 0.95 and (found[sure] == best[sure]).all()
    assert 0 < (found == 0).sum() < len(found), (
        "points outside the range have no class, all others one"
    )
    assert (found != voted(world, PLAIN, [0])["008"]).any(), "the votes change something"


def test_points_that_take_turns_decide_by_the_views_that_showed_them(world) -> None:
    """Against a loop over the views and points of one scan, in float64."""
    context = Context.open(load_config(world), World())
    scans = context.dataset("val")
    network = network_of(context, scans.labels, world.parent / "net.pt")
    scan = scans.load(0)
    recipe = Recipe.of(context.data, training=False)
    own: dict[int, list[np.ndarray]] = {}
    everywhere = []
    for k in range(4):
        sample = recipe.sample(scan, 0, visit=k)
        ((_, logits),) = raw_logits(network, collate([sample]))
        chances = logits[:, 1:].double().softmax(1).numpy()[sample.point_to_voxel]
        everywhere.append(chances)
        for point in sample.grouping.point.tolist():
            own.setdefault(point, []).append(chances[point])
    total = np.mean(everywhere, 0)
    for point, seen in own.items():
        total[point] = np.mean(seen, 0)
    best = np.where(sample.point_to_voxel >= 0, total.argmax(1) + 1, 0)
    ranked = np.sort(total, 1)
    sure = (ranked[:, -1] - ranked[:, -2] > 1e-4) | (sample.point_to_voxel < 0)
    found = voted(world, Votes(4, "points"), [0])["008"]
    assert sure.mean() > 0.9 and (found[sure] == best[sure]).all()
    assert (found != voted(world, PLAIN, [0])["008"]).any(), "the visits change something"


def test_a_network_that_reads_means_does_not_vote_by_points(world) -> None:
    context = Context.open(load_config(world), World())
    means = context.data.model_copy(update={"cell_features": "mean"})
    with pytest.raises(UserError, match=r"--vote-mode points: .*the mean over a voxel's points"):
        loader_and_predictor(context, context.dataset("val"), means, Votes(4, "points"))


def raw_logits(network: nn.Module, batch: Batch):
    kept: list = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, batch: Batch) -> Output:
            output = self.inner(batch)
            kept.append((batch, output.logits))
            return output

        def __deepcopy__(self, memo: dict) -> Watched:
            self.inner.eval()
            return self

    list(predictions(Watched(), [batch], CPU, contextlib.nullcontext, "watching"))
    return kept


@pytest.mark.parametrize(
    "votes",
    [
        Votes(5, flips=True),
        Votes(5, "legacy_random", "logits"),
        Votes(4, "legacy_cumulative", "logits"),
    ],
)
def test_chunks_order_and_processes_do_not_matter(votes, world) -> None:
    whole = voted(world, votes)
    assert list(whole) == ["008", "009", "010"] and same(whole, voted(world, votes))
    for chunk in (1, votes.count):
        cut = Votes(votes.count, votes.mode, votes.sum, chunk, votes.flips)
        assert same(whole, voted(world, cut))
    backwards = voted(world, votes, [2, 1, 0])
    assert list(backwards) == ["010", "009", "008"] and same(whole, dict(sorted(backwards.items())))
    parts = [voted(world, votes, None, rank, 2) for rank in range(2)]
    assert [list(part) for part in parts] == [["008", "010"], ["009"]]
    assert same(whole, dict(sorted((parts[0] | parts[1]).items())))


def test_score_says_how_it_was_voted(world, tmp_path, capsys) -> None:
    config = load_config(world, ["--eval.legacy_metric", "true"])
    votes = Votes(3, "legacy_random")
    result = evaluate_checkpoint(World(), config, world.parent / "net.pt", tmp_path, votes=votes)
    line = capsys.readouterr().out
    legacy = f"(legacy, points without a prediction left out: {100 * result.miou_legacy:.2f})"
    assert line == f"mIoU {100 * result.miou:.2f} {legacy} on Folder val, 3 scans, 3 votes each\n"
    assert abs(result.miou_legacy - result.miou) > 1e-3, "with points out of range the two differ"
    saved = json.loads((tmp_path / "evaluation-val-votes3.json").read_text())
    assert saved["votes"] == 3 and saved["extra"]["votes"]["mode"] == "legacy_random"
    assert saved["extra"]["votes"]["augment"]["translate_std"] == [0.1, 0.1, 0.1]
    assert not (tmp_path / "evaluation-val.json").exists(), (
        "the run's own score is that of one plain pass"
    )
    evaluate_checkpoint(World(), load_config(world), world.parent / "net.pt", tmp_path)
    assert "legacy" not in capsys.readouterr().out and (tmp_path / "evaluation-val.json").is_file()


def test_voted_and_plain_predictions_do_not_mix(world, tmp_path) -> None:
    predict = partial(
        predict_checkpoint,
        World(),
        load_config(world),
        world.parent / "net.pt",
        "split:val",
        tmp_path,
    )
    predict(votes=Votes(3))
    written = np.fromfile(tmp_path / "009.label", "<u4")
    assert written.tolist() == SEMANTICKITTI.to_raw(voted(world, Votes(3), [1])["009"]).tolist()
    predict(
        votes=Votes(3, chunk=1)
    )  # nothing to do, and no complaint: a chunk is no setting of the prediction
    for votes in (PLAIN, Votes(4), Votes(3, sum="logits")):
        with pytest.raises(
            UserError, match="predictions of another checkpoint, format or configuration"
        ):
            predict(votes=votes)


# --- cameras --------------------------------------------------------------------------------------------------------
def test_student_with_cameras_votes(tiny_nuscenes: Path, tmp_path: Path) -> None:
    """Two cameras and a joined sweep; a vote scores the keyframe's points, in and out of view, like a plain pass."""
    settings = {
        "num_epochs": 1, "batch_size": 1, "workers_per_gpu": 0, "eval": {"pictures": 0},
        "dataset": {
            "name": "nuscenes", "version": "v1.0-mini", "root": str(tiny_nuscenes), "multisweeps": {"num_sweeps": 1},
            "cameras": ["CAM_FRONT", "CAM_BACK"],
        },
        "data": {"voxel_size": 0.4, "images": True, "image_size": [64, 36]},
        "model": {
            "name": "lidar_camera",
            "lidar": {"name": "minkunet", "cr": 0.25},
            "image": {"encoder": "resnet18", "stem_stride": 2, "decoder_channels": 24},
        },
    }  # fmt: skip
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(settings))
    config = load_config(tmp_path / "student.yaml")
    torch.manual_seed(0)
    network = build_model(config, 17, pretrained=False)
    identity = {
        "fingerprint": NUSCENES.fingerprint,
        "classes": list(NUSCENES.classes),
        "config": config.tree,
    }
    torch.save(
        {"model": network.state_dict(), "training_only": {}, "identity": identity},
        tmp_path / "net.pt",
    )
    results = [
        evaluate_checkpoint(World(), config, tmp_path / "net.pt", tmp_path, votes=votes)
        for votes in (PLAIN, Votes(3, chunk=2))
    ]
    plain, voted = ({name: np.sum(counts) for name, counts in r.subsets.items()} for r in results)
    assert (
        plain == voted
        and min(plain.values()) > 0
        and results[0].num_points == results[1].num_points
    )
    first, second = (np.sum(r.confusion, 1).tolist() for r in results)
    assert first == second
    assert results[0].confusion != results[1].confusion
