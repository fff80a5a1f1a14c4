"""A seeded town, ray-cast by a laser and cameras, written in the official nuScenes and SemanticKITTI layouts."""

from core.datasets.synthetic.generate import generate
from core.datasets.synthetic.spec import WorldSpec

__all__ = ["WorldSpec", "generate"]
