"""SemanticKITTI: the reader, and what its benchmark takes."""

from core.datasets.semantickitti.drive import read_calib
from core.datasets.semantickitti.reader import (
    OFFICIAL_SEQUENCES,
    SemanticKITTI,
    SemanticKITTIConfig,
)

__all__ = ["OFFICIAL_SEQUENCES", "SemanticKITTI", "SemanticKITTIConfig", "read_calib"]
