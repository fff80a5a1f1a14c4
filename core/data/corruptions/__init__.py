"""Corrupted scans: SemanticKITTI-C's 16 corruptions and Robo3D's 24, on the fly, on disk, or as published."""

from core.data.corruptions.apply import Scanner, corrupt
from core.data.corruptions.profiles import PROFILES, SEVERITIES, Corruption, chosen
from core.data.corruptions.scans import CorruptedScans, published

__all__ = [
    "PROFILES",
    "SEVERITIES",
    "CorruptedScans",
    "Corruption",
    "Scanner",
    "chosen",
    "corrupt",
    "published",
]
