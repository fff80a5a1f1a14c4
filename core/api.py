"""For programs: ``from core.api import Segmenter``.

model = Segmenter.load("runs/semantickitti/minkunet")   # a run folder, a checkpoint, an exported .safetensors
result = model.predict(points)                          # [N, 4+]: x, y, z (m), intensity
result.labels, result.probabilities, result.names, result.colors
"""

from core.contracts import Points, Sensor
from core.engine.score.segmenter import Prediction, Segmenter

__all__ = ["Points", "Prediction", "Segmenter", "Sensor"]
