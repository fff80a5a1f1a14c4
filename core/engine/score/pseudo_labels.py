"""A trained network as a source of labels for scans that nobody labelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import Config
from core.data import VoteSamples
from core.data.pseudo.job import budgeted_scans, carrier_of
from core.data.pseudo.report import PseudoReport
from core.data.pseudo.write import write_pseudo_labels
from core.datasets.base import ScanDataset
from core.datasets.pseudo import GivenLabels
from core.engine.run.adopted import SCANS, settings_of
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.trained import TrainedNetwork, read_network
from core.engine.score.opened import Opened
from core.engine.score.prediction import view_of
from core.engine.score.voting import Votes, voted_scores, winners

__all__ = ["NetworkTeacher", "label_by_network", "own_view"]


def label_by_network(
    world: World,
    config: Config,
    out: Path,
    checkpoint: Path,
    *,
    votes: int = 1,
    poses: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> PseudoReport:
    """Label the unlabelled training scans with a trained network, in its own view of them.

    Args:
        config: its ``dataset`` names the scans and the budget.
        checkpoint: anything ``evaluate.py`` takes.
        votes: views of each scan that decide together.
        poses: keys of :class:`core.data.pseudo.poses.CarrySettings`: labels are carried first, and the network is asked
            where none arrives. None = it alone labels.
        workers: processes beside this one.

    Raises:
        UserError: there is no such network, it knows other classes, a scan is damaged, or ``out`` holds other labels.
    """
    dataset = budgeted_scans(config)
    found = read_network(checkpoint, "--checkpoint")
    found.check_labels(dataset.labels, "--checkpoint")
    teacher = NetworkTeacher.of(world, config, found, Votes(votes))
    made_from = {"teacher": teacher.made_from()}
    carrier = None
    if poses is not None:
        carrier, made_from["poses"] = carrier_of(dataset, poses)
    return write_pseudo_labels(
        dataset, out, made_from, carrier=carrier, teacher=teacher, workers=workers
    )


@dataclass(frozen=True)
class NetworkTeacher:
    """Labels scans of a split; confidence is the probability of the first class, averaged over the votes.

    Attributes:
        opened: the network, in the configuration of its training but for where scans lie.
        scans: the split with the sweeps that the network was trained on.
    """

    opened: Opened
    scans: ScanDataset
    votes: Votes

    @classmethod
    def of(
        cls, world: World, config: Config, found: TrainedNetwork, votes: Votes
    ) -> NetworkTeacher:
        """Open the scans of ``config`` as the network was shown those of its training.

        Raises:
            UserError: the two configurations do not go together.
        """
        own = own_view(found, config)
        scans = budgeted_scans(own, sweeps=True)
        return cls(Opened(found, Context.open(own, world)), scans, votes)

    def made_from(self) -> dict[str, Any]:
        """All that the labels depend on besides the scans, as JSON."""
        context = self.opened.context
        device = context.world.device
        return {
            "checkpoint_sha256": self.opened.found.sha256,
            "settings": settings_of(context.config),
            "number_type": context.experiment.amp.number_type(device.type),
            "votes": self.votes.settings(context),
        }

    def __call__(self, indices: Sequence[int]) -> Iterator[GivenLabels]:
        """Label scans of the split, in this order.

        Raises:
            UserError: a scan is damaged.
        """
        if not indices:
            return
        context = self.opened.context
        network = self.opened.network(self.scans.labels)
        self.opened.compare_scans(self.scans)
        device = context.world.device
        chunk = self.votes.chunk_on(device)
        plan = self.votes.plan(context)
        view = view_of(context, self.scans)
        samples = VoteSamples(self.scans, view, plan, chunk, indices)
        loader = context.loader_of(samples, training=False, batch_size=1)
        loader.set_epoch(0, 0)
        answers = voted_scores(
            network, loader, device, context.autocast, "teacher", votes=self.votes
        )
        for count, (batch, total, decided) in enumerate(answers):
            assert batch.tokens == (self.scans.token(indices[count]),), "one scan, in its turn"
            own = batch.keyframe
            label = winners(total, decided)[own]
            confidence = (total.amax(1) / self.votes.count * decided)[own]
            yield GivenLabels.by("teacher", label.byte().cpu().numpy(), confidence.cpu().numpy())


def own_view(found: TrainedNetwork, config: Config) -> Config:
    """The configuration of a network's training with the scans of another one.

    What changes how a network sees scans stays its own, where both have one reader.
    """
    own = found.config
    section = deepcopy(config.tree["dataset"])
    theirs = own.tree["dataset"]
    if theirs.get("name") == section.get("name"):
        for key in SCANS:
            section.pop(key, None)
            if key in theirs:
                section[key] = deepcopy(theirs[key])
        (section.get("multisweeps") or {}).pop("labelled", None)  # no prediction needs them
    data = own.tree.setdefault("data", {})
    data["on_bad_sample"] = "raise"  # a scan in another's place would get its labels
    own.tree["dataset"] = section
    own.origins |= config.origins
    return own
