"""``train.init_from``: a run begins with the weights of another one (fine-tuning), its schedule from the first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loguru import logger
from torch import nn

from core.distill import Method
from core.engine.run.checkpoint import load_weights, read_checkpoint
from core.errors import UserError

__all__ = ["start_from"]

STUDENT = "student."


def start_from(module: nn.Module, path: Path, skipped: Sequence[str] = ()) -> None:
    """Load a checkpoint's weights into what is about to be trained.

    A method takes over what learned beside the student too, if the checkpoint has it; from a run without such parts the
    student alone is loaded.

    Args:
        module: a network, or the :class:`Method` that holds it.
        path: checkpoint, or run folder (its best one).
        skipped: beginnings of names that keep their random start, e.g. ``head.`` where the classes differ.

    Raises:
        UserError: the checkpoint is missing, damaged or of another network, or ``skipped`` names nothing in it.
    """
    path = path / "checkpoints" / "max-iou-val-vox.pt" if path.is_dir() else path
    state = read_checkpoint(path)
    beside = state.get("training_only") or {}
    whole = isinstance(module, Method) and bool(beside)
    target = module.student if isinstance(module, Method) and not whole else module
    given = {(STUDENT if whole else "") + key: value for key, value in state["model"].items()}
    given |= beside if whole else {}
    own = target.state_dict()
    for name in skipped:
        if not any(_bare(key).startswith(name) for key in own):
            raise UserError(
                f"no weight's name begins with '{name}'",
                where="train.init_skip",
                cure=f"Names begin with {', '.join(sorted({_bare(key).split('.')[0] for key in own}))}",
            )
    new = {key: value for key, value in own.items() if _bare(key).startswith(tuple(skipped))}
    given = {
        key: value for key, value in given.items() if not _bare(key).startswith(tuple(skipped))
    }
    load_weights(target, given | new, f"{path}, key 'train.init_from'")
    logger.info(
        "starting with {} weights of {}, {} stay as drawn", len(own) - len(new), path, len(new)
    )


def _bare(key: str) -> str:
    return key.removeprefix(STUDENT)
