"""CENet's files: names and shapes spelt again, its logits by plain functions in float64, its YAMLs compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from core.config import Config
from core.engine.exchange.weights import import_weights
from core.engine.run.checkpoint import load_weights
from core.errors import UserError
from core.labels import LABEL_SPACES
from core.models import build_model
from core.models.lidar.cenet import CENet

Weights = dict[str, Tensor]
WIDTH, CLASSES = 8, 20
DEPTHS = (3, 4, 6, 3)
MEANS = [11.71279, -0.1023471, 0.4952, -1.0545, 0.2877]
STDS = [10.24, 12.295865, 9.4287, 0.8643, 0.1450]


def published(seed: int = 0) -> Weights:
    """``state_dict`` of the authors' class, whose stages are 128 wide, here 8."""
    torch.manual_seed(seed)
    weights: Weights = {}

    def conv(name: str, cin: int, cout: int, kernel: int) -> None:
        weights[f"{name}.weight"] = (
            torch.randn(cout, cin, kernel, kernel) * 1.5 / (cin * kernel**2) ** 0.5
        )

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = torch.rand(width) + 0.5
        weights[f"{name}.bias"] = torch.randn(width) * 0.2
        weights[f"{name}.running_mean"] = torch.randn(width) * 0.2
        weights[f"{name}.running_var"] = torch.rand(width) + 0.5
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    for i, (cin, cout) in enumerate([(5, WIDTH // 2), (WIDTH // 2, WIDTH), (WIDTH, WIDTH)]):
        conv(f"conv{i + 1}.conv", cin, cout, 3)
        norm(f"conv{i + 1}.bn", cout)
    for stage, depth in enumerate(DEPTHS, 1):
        for block in range(depth):
            for layer in (1, 2):
                conv(f"layer{stage}.{block}.conv{layer}", WIDTH, WIDTH, 3)
                norm(f"layer{stage}.{block}.bn{layer}", WIDTH)
        if stage > 1:
            conv(f"layer{stage}.0.downsample.0", WIDTH, WIDTH, 1)
            norm(f"layer{stage}.0.downsample.1", WIDTH)
    for i, (cin, cout) in enumerate([(5 * WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH)]):
        conv(f"conv_{i + 1}.conv", cin, cout, 3)
        norm(f"conv_{i + 1}.bn", cout)
    for name in ("semantic_output", "aux_head1", "aux_head2", "aux_head3"):
        conv(name, WIDTH, CLASSES, 1)
        weights[f"{name}.bias"] = torch.randn(CLASSES)
    return weights


def reference(weights: Weights, image: Tensor) -> Tensor:
    """[B, 20, H, W] logits, layer by layer."""
    w = {name: value.double() for name, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    def basic(x: Tensor, name: str) -> Tensor:
        return F.hardswish(norm(F.conv2d(x, w[f"{name}.conv.weight"], padding=1), f"{name}.bn"))

    x = image
    for name in ("conv1", "conv2", "conv3"):
        x = basic(x, name)
    joined = [x]
    for stage, depth in enumerate(DEPTHS, 1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            stride, shortcut = 1, x
            if stage > 1 and block == 0:
                stride = 2
                shortcut = F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=2)
                shortcut = norm(shortcut, f"{name}.downsample.1")
            out = F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(
                F.hardswish(norm(out, f"{name}.bn1")), w[f"{name}.conv2.weight"], padding=1
            )
            x = F.hardswish(norm(out, f"{name}.bn2") + shortcut)
        joined.append(F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=True))
    x = basic(basic(torch.cat(joined, 1), "conv_1"), "conv_2")
    return F.conv2d(x, w["semantic_output.weight"], w["semantic_output.bias"])


def config(**model: object) -> Config:
    return Config(
        {
            "num_epochs": 1,
            "batch_size": 1,
            "dataset": {"name": "semantickitti", "root": "/nowhere"},
            "data": {"partition": {"name": "range_image", "width": 512}},
            "model": {"name": "cenet", "width": WIDTH} | model,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "scheduler": {"name": "none"},
            "distill": {"name": "cenet"},
        }
    )


def arch(**train: object) -> dict:
    size = {"width": 512, "height": 64}
    sensor = {"fov_up": 3, "fov_down": -25, "img_prop": size, "img_means": MEANS, "img_stds": STDS}
    train = {"pipeline": "res", "act": "Hardswish"} | train
    return {"train": train, "dataset": {"sensor": sensor}}


def saved(folder: Path, weights: Weights, settings: dict, labels: dict) -> Path:
    """What its trainer leaves behind: several GPUs' names, an optimiser, two YAMLs."""
    path = folder / "SENet_valid_best"
    named = {f"module.{name}": value for name, value in weights.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]}
    state = {"epoch": 3, "state_dict": named, "optimizer": optimizer, "info": {"best_val_iou": 0.6}}
    torch.save(state | {"scheduler": {"last_epoch": 4}}, path)
    (folder / "arch_cfg.yaml").write_text(yaml.safe_dump(settings))
    (folder / "data_cfg.yaml").write_text(yaml.safe_dump({"learning_map": labels}))
    return path


def official() -> dict:
    return {
        int(raw): int(train) for raw, train in LABEL_SPACES["semantickitti"].raw_to_train.items()
    }


def test_imported_logits(tmp_path: Path) -> None:
    weights = published()
    source = saved(tmp_path, weights, arch(), official())
    state = import_weights(source, config(), tmp_path / "own.pt")
    network = build_model(Config(state["identity"]["config"]), CLASSES, pretrained=False)
    assert isinstance(network, CENet)
    load_weights(network, state["model"], "test")
    network.double().eval()
    torch.manual_seed(1)
    image = torch.randn(2, 5, 18, 22, dtype=torch.float64)
    with torch.no_grad():
        _, full = network._maps(image)
        found = network.classifier(network.head(torch.cat(full, 1)))
        expected = reference(weights, image)
    assert expected.std((0, 2, 3)).min() > 1e-3, "outputs differ from pixel to pixel"
    torch.testing.assert_close(found, expected)
    heads = {f"heads.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert set(state["training_only"]) == heads
    assert state["training_only"]["heads.2.bias"].equal(weights["aux_head3.bias"])
    assert not state["identity"]["imported"]["unused"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"act": "SiLU"}, r"train\.act is silu, and 'model\.activation' is hardswish"),
        ({"pipeline": "hardnet"}, r"train\.pipeline is hardnet, and 'model\.variant' is res"),
    ],
)
def test_settings_beside_the_file_are_compared(train: dict, message: str, tmp_path: Path) -> None:
    source = saved(tmp_path, published(), arch(**train), official())
    with pytest.raises(UserError, match=message):
        import_weights(source, config(), tmp_path / "own.pt")


def test_input_and_labels_are_compared(tmp_path: Path) -> None:
    settings = arch()
    settings["dataset"]["sensor"]["fov_up"] = 2
    source = saved(tmp_path, published(), settings, official())
    with pytest.raises(
        UserError, match=r"fov is \[-25\.0, 2\.0\], and 'data\.partition\.elevation'"
    ):
        import_weights(source, config(), tmp_path / "own.pt")
    with pytest.raises(UserError, match=r"img_means is .* and 'model\.mean' is"):
        import_weights(source, config(mean=[1, 2, 3, 4, 5]), tmp_path / "own.pt")
    source = saved(tmp_path, published(), arch(), official() | {10: 2})
    with pytest.raises(UserError, match="gives raw label 10 the class 2, the data set 1"):
        import_weights(source, config(), tmp_path / "own.pt")
