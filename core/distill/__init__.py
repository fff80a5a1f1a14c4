"""Methods of training, with and without a teacher. A new one is a file here and a line in ``METHODS``."""

from __future__ import annotations

from core.config import Config
from core.distill.base import COMPARED_EDGE, Method, Needs, TeacherOutput, compared_stage
from core.distill.score import LAST, LAST_LOSS, LOSS, MIOU, Score
from core.labels import LabelSpace
from core.registry import load_entry, look_up

__all__ = [
    "COMPARED_EDGE",
    "LAST",
    "LAST_LOSS",
    "LOSS",
    "METHODS",
    "MIOU",
    "SUPERVISED",
    "Method",
    "Needs",
    "Score",
    "TeacherOutput",
    "compared_stage",
    "method_class",
    "network_outputs",
]

SUPERVISED = "supervised"  # where there is no ``distill`` section
METHODS: dict[str, str] = {  # distill.name -> module:class; imported when asked for
    SUPERVISED: "core.distill.supervised:Supervised",
    "u2mkd": "core.distill.u2mkd:U2MKD",
    "2dpass": "core.distill.twodpass:MSFSKD",
    "pvkd": "core.distill.pvkd:PVKD",
    "slidr": "core.distill.slidr:SLidR",
    "ppkt": "core.distill.ppkt:PPKT",
    "scalr": "core.distill.scalr:ScaLR",
    "cenet": "core.distill.cenet:CENetTraining",
    "wdcd": "core.distill.wdcd:WDCD",
}


def method_class(config: Config) -> type[Method]:
    """The method that ``distill.name`` asks for; supervised training where there is no ``distill`` section.

    Raises:
        UserError: a section without a name, or an unknown method.
    """
    if config.tree.get("distill") is None:
        found: type[Method] = load_entry(METHODS[SUPERVISED])
    else:
        found = look_up(METHODS, config, "distill.name", "methods")
    return found


def network_outputs(config: Config, labels: LabelSpace) -> int:
    """Width of the output of the network that a configuration trains: its classes, or its method's embedding.

    Raises:
        UserError: an unknown method, or a setting of it that is wrong.
    """
    kind = method_class(config)
    return kind.outputs(config.parse(kind.Config, "distill"), labels)
