# ruff: noqa: TID253
import shutil

import pytest
import torch
from torch import nn

from mlserve_cli.errors import StepError
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.prune import PruneStep, tracing
from mlserve_cli.prune.network import prune


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.head = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.inside(x)
        if torch.is_grad_enabled():
            raise RuntimeError("no gradients, please")
        return self.head(x)


def test_a_network_that_cannot_be_traced_is_told_with_the_line_of_the_user_s_file():
    with pytest.raises(StepError, match="no gradients, please") as caught:
        prune(Stubborn(), (torch.rand(2, 8),), ratio=0.5)
    line = Stubborn.forward.__code__.co_firstlineno + 3
    assert f"at line {line} of 'test_tracing.py'" in caught.value.message
    assert "differentiable" in caught.value.hint


def test_the_line_is_that_of_the_definition_in_the_package(mixed_package, tmp_path):
    shutil.copytree(mixed_package.path, tmp_path / "package")
    definition = tmp_path / "package" / "source" / "definition.py"
    lines = definition.read_text().splitlines()
    place = next(index for index, each in enumerate(lines) if "return self.head(x.mean" in each)
    lines.insert(place, "        x.missing")
    definition.write_text("\n".join(lines))
    with pytest.raises(StepError, match="cannot be traced for pruning") as caught:
        step.run(
            PruneStep(epochs=1),
            Package(tmp_path / "package", mixed_package.manifest),
            tmp_path / "x",
            progress=Silent(),
        )
    assert f"at line {place + 1} of 'definition.py'" in caught.value.message
    assert not (tmp_path / "x").exists()


def test_an_error_of_a_library_alone_names_no_line():
    try:
        torch.zeros(2).view(3)
    except RuntimeError as error:
        found = tracing.user_line(error)
    assert found.endswith("of 'test_tracing.py'")
    assert tracing.user_line(ValueError("never raised")) == ""
