import importlib.util
import logging

import numpy as np
import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import Choices, StaticStep

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("neural_compressor") is None
    or importlib.util.find_spec("torchao") is None,
    reason="needs the extra neural-compressor",
)

DEFINITION = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return self.head(torch.relu(self.two(x) + x).mean((2, 3)))

def model():
    torch.manual_seed(0)
    return Net().eval()

def sample():
    return torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
"""
ROWS = np.random.default_rng(0).normal(size=(40, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Package:
    from mlserve_cli.export.export import export

    folder = tmp_path_factory.mktemp("pt2e")
    (folder / "model.py").write_text(DEFINITION)
    return export(str(folder / "model.py"), folder / "net", progress=Silent())


@pytest.mark.parametrize("calibrator", ["minmax", "mse"])
def test_every_product_of_the_module_runs_in_int8_near_float(
    parent, tmp_path, capfd, caplog, calibrator
):
    step = StaticStep(
        [{"x": ROWS}], choices=Choices(calibrator=calibrator), quantizer="neural-compressor"
    )
    made = run(step, parent, tmp_path / "int8", progress=Silent())
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (3, 0)
    assert made.manifest.inputs == parent.manifest.inputs
    assert "neural-compressor-pt" in made.manifest.lineage[-1].libraries
    outputs = []
    for package in (parent, made):
        engine = package.engine()
        outputs.append(next(iter(engine.run({"x": ROWS[:5]}).values())))
        engine.close()
    assert np.sqrt(np.mean((outputs[0] - outputs[1]) ** 2)) < 0.05 * outputs[0].std()
    assert capfd.readouterr() == ("", "")
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
