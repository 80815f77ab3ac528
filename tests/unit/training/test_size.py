# ruff: noqa: TID253
import torch
from torch import nn

from mlserve_cli.training import size


def test_products_of_one_row_are_counted():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    found = size.measure(network, (torch.zeros(6, 3, 8, 8),))
    assert found.macs == 8 * 8 * 4 * 3 * 9 + 4 * 8 * 8 * 5
    assert found.parameters == 4 * 3 * 9 + 4 + 4 * 8 * 8 * 5 + 5


def test_a_tied_parameter_counts_once_and_the_mode_stays():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).train()
    network[1].weight = network[0].weight
    assert size.measure(network, (torch.zeros(1, 4),)).parameters == 16 + 4 + 4
    assert network.training
