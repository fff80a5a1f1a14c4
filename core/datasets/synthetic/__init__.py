"""A seeded town, ray-cast by a laser and cameras, in the official layouts of nuScenes, SemanticKITTI and Waymo."""

from core.datasets.synthetic.generate import generate
from core.datasets.synthetic.spec import WorldSpec

__all__ = ["WorldSpec", "generate"]
