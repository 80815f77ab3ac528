# ruff: noqa: TID253
import copy

import pytest
import torch
from torch import nn

from mlserve_cli.distill import students
from mlserve_cli.errors import StepError
from mlserve_cli.training import history


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
