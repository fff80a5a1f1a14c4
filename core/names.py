"""Names that the command line offers; it is parsed before anything heavy, such as torch, is imported."""

from __future__ import annotations

__all__ = ["BENCHMARKS", "CORRUPTION_PROFILES", "FAMILIES", "FORMATS", "SUPERPIXELS", "WORLDS"]

BENCHMARKS: dict[str, str] = {  # dataset.name -> module:class
    "semantickitti": "core.datasets.semantickitti.benchmark:SemanticKITTIBenchmark",
    "nuscenes": "core.datasets.nuscenes.benchmark:NuScenesBenchmark",
    "waymo": "core.datasets.waymo.scoring.benchmark:WaymoBenchmark",
}
FORMATS: dict[str, str] = BENCHMARKS | {"npy": "core.datasets.benchmark:NumpyFormat"}
SUPERPIXELS = "superpixels"  # in dataset.planes and data.planes
CORRUPTION_PROFILES = ("semantickitti-c", "robo3d")  # of core.data.corruptions
FAMILIES: dict[str, str] = {  # name after --from -> module:class; imported when asked for
    "u2mkd": "core.engine.exchange.u2mkd:U2MKDWeights",
    "2dpass": "core.engine.exchange.twodpass:TwoDPassWeights",
    "sphereformer": "core.engine.exchange.sphereformer:SphereFormerWeights",
    "cylinder3d": "core.engine.exchange.cylinder3d:Cylinder3DWeights",
    "cenet": "core.engine.exchange.cenet:CENetWeights",
    "slidr": "core.engine.exchange.slidr:SLidRWeights",
    "openpcdet": "core.engine.exchange.openpcdet:OpenPCDetWeights",
    "spvnas": "core.engine.exchange.spvnas:SPVNASWeights",
}
WORLDS: dict[str, str] = {  # prepare_synthetic.py --format -> a WorldFormat
    "nuscenes": "core.datasets.synthetic.nuscenes_world:NuScenesWorld",
    "semantickitti": "core.datasets.synthetic.kitti_format:KittiWorld",
    "waymo-v1": "core.datasets.synthetic.waymo_format:RecordWorld",
    "waymo-v2": "core.datasets.synthetic.waymo_format:TableWorld",
}
