# ruff: noqa: TID253
import copy

import pytest
import torch
from torch import nn

from mlserve_cli.distill import DistillStep, students
from mlserve_cli.errors import StepError
from mlserve_cli.package import step
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.progress import Silent
from mlserve_cli.training import history, source
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions


class Encoder(nn.Module):
    def __init__(self, layers=6):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.layers = nn.ModuleList(copy.deepcopy(block) for _ in range(layers))
        self.head = nn.Linear(16, 3)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("keep", "count", "places"),
    [
        (2, 6, (0, 3)),
        (3, 6, (0, 2, 4)),
        (1, 6, (0,)),
        (6, 12, (0, 2, 4, 6, 8, 10)),
        ((1, 4), 6, (1, 4)),
    ],
)
def test_layers_that_stay_are_spread_evenly_or_those_named(keep, count, places):
    assert students.chosen(keep, count) == places


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (6, "6 layers cannot be kept of 6"),
        (0, "0 layers cannot be kept"),
        ((0, 6), "no layer 6"),
        ((3, 0), "3, 0 cannot stay"),
        ((1, 1), "1, 1 cannot stay"),
        (tuple(range(6)), "cannot stay of 6"),
    ],
)
def test_layers_that_are_not_there_are_refused(keep, said):
    with pytest.raises(StepError, match=said):
        students.chosen(keep, 6)


def test_the_stack_is_the_list_of_like_blocks_with_most_parameters():
    assert students.stack(Encoder()) == ("layers", 6)
    with pytest.raises(StepError, match="no stack of like layers"):
        students.stack(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_a_dropped_layer_is_gone_for_good_and_the_history_builds_it_again():
    torch.manual_seed(0)
    teacher = Encoder()
    smaller = copy.deepcopy(teacher)
    dropped = [f"layers.{index}" for index in (1, 2, 4, 5)]
    history.drop(smaller, dropped)
    assert len(smaller.layers) == 2
    assert torch.equal(smaller.layers[1].linear1.weight, teacher.layers[3].linear1.weight)
    again = Encoder()
    history.replay(again, [{"drop": dropped}], smaller.state_dict())
    again.load_state_dict(smaller.state_dict())
    ids = torch.randint(20, (2, 5))
    assert torch.equal(again.eval()(ids), smaller.eval()(ids))


def test_what_stands_in_no_list_is_replaced_by_nothing():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.second(self.first(x))

    network = Two()
    history.drop(network, ["first", "not.there"])
    assert isinstance(network.first, nn.Identity)
    assert network(torch.ones(1, 2)).shape == (1, 2)


ENCODER = '''
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

LABELS = [str(digit) for digit in range(10)]
TRAINING = {"epochs": 6, "optimizer": "adamw", "learning_rate": 3e-3, "precision": "fp32"}


class Block(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        shares = (self.query(x) @ self.key(x).transpose(1, 2) / 6).softmax(-1)
        x = self.first(x + self.out(shares @ self.value(x)))
        return self.second(x + self.narrow(F.gelu(self.wide(x))))


class Encoder(nn.Module):
    """The eight lines of a digit as a sequence: (batch, 8, 8) → 10."""

    def __init__(self, layers=4):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(torch.zeros(8, 32))
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Linear(32, 10)

    def forward(self, lines):
        x = self.embed(lines) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def splits():
    data = load_digits()
    lines = (data.images / 16).astype(np.float32)
    return (lines[:1400], data.target[:1400]), (lines[1400:], data.target[1400:])


def architecture():
    return Encoder()


def model():
    torch.manual_seed(0)
    return Encoder()


def student():
    return Encoder()


def sample():
    return splits()[0][0][:16]


def training():
    lines, classes = splits()[0]
    for rows in torch.randperm(len(lines)).split(50):
        yield lines[rows], classes[rows]


def evaluation():
    yield splits()[1]
'''


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A package of four layers, trained."""
    from mlserve_cli.export.export import export

    folder = tmp_path_factory.mktemp("encoder")
    text = ENCODER.replace(
        "    torch.manual_seed(0)\n    return Encoder()", "    return load('trained.pt')"
    )
    (folder / "model.py").write_text(ENCODER)
    definition = Definition.load(folder / "model.py")
    network = definition.function("model")()
    options = TrainingOptions.of(definition)
    train(
        network,
        batches(definition, ("lines",)),
        options=options,
        loss=task_loss(definition, options),
        seed=0,
        progress=Silent(),
    )
    assert text != ENCODER
    torch.save(network.state_dict(), folder / "trained.pt")
    load = """

def load(name):
    network = Encoder()
    network.load_state_dict(torch.load(HERE / name))
    return network
"""
    (folder / "model.py").write_text(
        "from pathlib import Path\n\nHERE = Path(__file__).parent\nFILES = ['trained.pt']\n"
        + text
        + load
    )
    return export(str(folder / "model.py"), folder / "package", progress=Silent())


def test_a_student_of_fewer_layers_begins_as_the_teacher_and_goes_on_from_its_source(
    encoder, tmp_path
):
    made = DistillStep(layers=2, epochs=3, attention=0.5, hints="auto", hints_weight=0.5)
    student = step.run(made, encoder, tmp_path / "student", progress=Silent())
    record = student.manifest.lineage[-1].parameters
    assert (record["layers"], record["layers_before"]) == ([0, 2], 4)
    found = source.load(student)
    assert found.history == [{"drop": ["layers.1", "layers.3"], "layers": {}}]
    assert len(found.module.layers) == 2
    lines, classes = found.definition.function("splits")()[1]
    engine = student.engine()
    (scores,) = engine.run({"lines": lines}).values()
    engine.close()
    assert (scores.argmax(1) == classes).mean() > 0.7
    # A second time, from its source alone; the history holds both.
    again = step.run(
        DistillStep(layers=(1,), epochs=1), student, tmp_path / "again", progress=Silent()
    )
    found = source.load(again)
    assert found.history == [
        {"drop": ["layers.1", "layers.3"], "layers": {}},
        {"drop": ["layers.0"], "layers": {}},
    ]
    assert len(found.module.layers) == 1


def test_layers_that_are_not_there_leave_nothing_behind(encoder, tmp_path):
    with pytest.raises(StepError, match="there is no layer 4"):
        step.run(DistillStep(layers=(0, 4)), encoder, tmp_path / "x", progress=Silent())
    assert not list(tmp_path.iterdir())
