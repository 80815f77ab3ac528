"""Small PyTorch models, written as the engine takes them."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def net():
    """Token ids (batch, length) and a mask → probabilities (batch, 3) and the ids reversed."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 16)
            self.out = nn.Linear(16, 3)

        def forward(self, ids, mask):
            found = (self.table(ids) * mask.unsqueeze(-1)).sum(1)
            return torch.softmax(self.out(found), -1), ids.flip(1)

    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="session")
def rows():
    """Eleven rows for `net`."""
    random = np.random.default_rng(0)
    return {
        "ids": random.integers(0, 50, (11, 6)),
        "mask": random.random((11, 6), dtype=np.float32),
    }


@pytest.fixture(scope="session")
def program(net, rows, tmp_path_factory):
    """`net` as mlserve writes it."""
    from mlserve_cli.graph import program

    path = tmp_path_factory.mktemp("program") / "model.pt2"
    axes = {1: "length"}
    program.write(
        net, rows, path, outputs=["scores", "reversed"], dynamic={"ids": axes, "mask": axes}
    )
    return path


@pytest.fixture
def saved(tmp_path):
    """Write any module as its author would, with torch.export.save."""
    import torch

    def save(module, *arguments, dynamic_shapes=None, keep_example=True):
        path = tmp_path / "theirs.pt2"
        program = torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes)
        if not keep_example:
            program._example_inputs = None
        torch.export.save(program, str(path))
        return path

    return save
