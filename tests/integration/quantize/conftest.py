"""A residual network trained on real handwritten digits, written as ONNX with its BatchNorms."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest, StepRecord

WIDTH = 16


@dataclass
class Digits:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, (n, 1, 8, 8) float32, split for good."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images[:, None] / 16.0).astype(np.float32)
    x, held_x, y, held_y = train_test_split(
        images, data.target, test_size=500, random_state=0, stratify=data.target
    )
    return Digits((x, y), (held_x, held_y))


@pytest.fixture(scope="session")
def residual_onnx(digits, tmp_path_factory):
    """The trained network: (batch, 1, 8, 8) → logits (batch, 10)."""
    path = tmp_path_factory.mktemp("residual") / "residual.onnx"
    _write(_trained(digits), path)
    return path


@pytest.fixture
def residual_package(residual_onnx, digits, tmp_path):
    return pack(residual_onnx, {"x": digits.train[0][:64]}, tmp_path / "residual")


@pytest.fixture(scope="session")
def hostile_onnx(digits, tmp_path_factory):
    """The same function, in a form that 8 bits cannot hold between "one" and "two".

    Two channels of "one" are a thousand times as large and the weights of "two" that take them as
    much smaller, which a Relu between them lets pass: one scale for the tensor then rounds all
    other channels away (the equalization of Nagel et al. 2019, the wrong way round).
    """
    weights = _trained(digits)
    for part in ("norm1.weight", "norm1.bias"):
        weights[part][:2] *= 1000
    weights["two.weight"][:, :2] /= 1000
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    _write(weights, path)
    return path


@pytest.fixture
def hostile_package(hostile_onnx, digits, tmp_path):
    return pack(hostile_onnx, {"x": digits.train[0][:64]}, tmp_path / "hostile")


@pytest.fixture(name="pack")
def _pack():
    """For a test that brings a model of its own."""
    return pack


@pytest.fixture
def cases(digits, tmp_path):
    """Rows to take ranges from, and others with their digits to judge with."""
    from mlserve_cli.pipeline.cases import Cases

    calibration, held = tmp_path / "calibration.npz", tmp_path / "held.npz"
    np.savez(calibration, x=digits.train[0][:200])
    np.savez(held, x=digits.test[0], target=digits.test[1])
    return Cases(data=str(held), calibration_data=str(calibration))


def pack(model: Path, sample, target: Path, **fields) -> Package:
    import shutil

    values = {
        "name": "digits",
        "version": "1",
        "variant": "fp32",
        "inputs": (),
        "outputs": (),
        "labels": tuple("0123456789"),
        "lineage": (StepRecord(step="export"),),
    }
    with create(target) as draft:
        shutil.copyfile(model, draft.serve / "model.onnx")
        draft.source.mkdir()
        (draft.source / "definition.py").write_text("# the float source\n")
        sealed = finish(draft, Manifest(**(values | fields)), [sample])
    return Package(target, sealed)


def _trained(digits):
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small lose more to the second thread than they win
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "stem": nn.Conv2d(1, WIDTH, 3, padding=1),
            "norm0": nn.BatchNorm2d(WIDTH),
            "one": nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            "norm1": nn.BatchNorm2d(WIDTH),
            "two": nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            "norm2": nn.BatchNorm2d(WIDTH),
            "head": nn.Linear(WIDTH, 10),
        }
    )

    def forward(x):
        x = torch.relu(net["norm0"](net["stem"](x)))
        y = torch.relu(net["norm1"](net["one"](x)))
        y = net["norm2"](net["two"](y))
        return net["head"](torch.relu(x + y).mean((2, 3)))

    x, y = (torch.from_numpy(array) for array in digits.train)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(forward(x[rows]), y[rows]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return {name: value.numpy() for name, value in net.state_dict().items()}


def _write(weights, path: Path) -> None:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes = []

    def conv(source: str, layer: str, norm: str) -> str:
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{layer}.weight", f"{layer}.bias"],
                [layer],
                name=layer,
                pads=[1, 1, 1, 1],
            )
        )
        names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        nodes.append(helper.make_node("BatchNormalization", [layer, *names], [norm], name=norm))
        return norm

    def simple(op: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output))
        return output

    stem = simple("Relu", [conv("x", "stem", "norm0")], "relu0")
    one = simple("Relu", [conv(stem, "one", "norm1")], "relu1")
    added = simple("Add", [conv(one, "two", "norm2"), stem], "add")
    pooled = simple("GlobalAveragePool", [simple("Relu", [added], "relu2")], "pooled")
    flat = simple("Flatten", [pooled], "flat")
    nodes.append(
        helper.make_node(
            "Gemm", [flat, "head.weight", "head.bias"], ["logits"], name="head", transB=1
        )
    )
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(value, name)
            for name, value in weights.items()
            if not name.endswith("num_batches_tracked")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model)
    save(model, path)
