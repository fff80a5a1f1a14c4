"""Whether a job may run on a split: an official one has to be whole, unless the configuration says otherwise."""

from __future__ import annotations

from loguru import logger

from core.datasets.base import ScanDataset
from core.errors import UserError

__all__ = ["check_complete", "shortfall"]

_ALLOW = "dataset.partial: true"


def shortfall(scans: ScanDataset) -> str | None:
    """What a split lacks of the official one, in one line; None where it is whole, made up or the user's own."""
    if scans.complete or scans.expected is None:
        return None
    text = f"{scans.split} has {scans.listed:,} of the official {scans.expected:,} scans"
    absent = scans.absent()
    if absent:
        text += f" ({absent})"
    return text


def check_complete(scans: ScanDataset) -> None:
    """Refuse an official split of which scans are missing; with ``dataset.partial`` tell of it.

    A split of the user's own is what its files are: what the configuration names and is not there is told.

    Raises:
        UserError: scans are missing, and the configuration does not say that this is meant.
    """
    lack = shortfall(scans)
    if lack is None:
        for text in scans.left_out():
            logger.warning("{} split: {}", scans.split, text)
        return
    if scans.config.partial:
        logger.warning("{}: scores do not compare with published ones", lack)
        return
    raise UserError(
        lack,
        where=str(scans.root),
        cure=f"Run 'python -m core.check_data CONFIG' for the archives, or write {_ALLOW} to work on what is there",
    )
