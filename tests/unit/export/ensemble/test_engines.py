"""Members of different engines in one ensemble."""

import numpy as np
import pytest

from mlserve_cli.export.export import export
from mlserve_cli.package.package import Package

HEAD = """
import torch
NAME = "head"
OUTPUTS = ["logits"]
class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 2)
    def forward(self, scores):
        return self.linear(scores)
def model():
    return Head().eval()
def sample():
    return torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
"""

CHAIN = """
outputs = ["logits"]
[[steps]]
package = "iris"
[[steps]]
package = "head"
"""


def test_a_torch_member_takes_what_an_onnx_member_made(exported, flowers, iris):
    pytest.importorskip("torch")
    (flowers / "head.py").write_text(HEAD, encoding="utf-8")
    export(str(flowers / "head.py"), flowers / "head", engine="torch")

    package = exported(CHAIN)

    first, second, whole = (
        each.engine()
        for each in (Package.open(flowers / "iris"), Package.open(flowers / "head"), package)
    )
    try:
        scores = first.run({"x": iris[0][:7]})
        found = whole.run({"x": iris[0][:7]})["logits"]
        assert np.array_equal(found, second.run(scores)["logits"])
    finally:
        for engine in (first, second, whole):
            engine.close()
    assert package.manifest.processing.input is not None, "the table of the first"
    assert package.manifest.processing.output is None, "of scores, which are not answered"
