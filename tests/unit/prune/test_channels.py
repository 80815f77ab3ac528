# ruff: noqa: TID253
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mlserve_cli.errors import StepError
from mlserve_cli.package.definition import Definition
from mlserve_cli.prune.channels import kept
from mlserve_cli.prune.network import prune
from mlserve_cli.training import history, size


@pytest.fixture
def mixed(tmp_path):
    from pathlib import Path

    path = Path(__file__).parents[1] / "training" / "definitions" / "mixed.py"
    (tmp_path / "model.py").write_bytes(path.read_bytes())
    return Definition.load(tmp_path / "model.py")


@pytest.fixture
def network(mixed):
    """Mixed with norms that are not the ones of a fresh network."""
    module = mixed.function("model")()
    torch.manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 1.5)
    return module.eval()


def example(count=4):
    return (torch.rand(count, 1, 8, 8),)


def test_residual_depthwise_grouped_and_concatenated_layers_become_smaller(network):
    pruned = prune(network, example(), ratio=0.5)
    found = {
        name: (layer.in_channels, layer.out_channels, layer.groups)
        for name, layer in pruned.module.named_modules()
        if isinstance(layer, nn.Conv2d)
    }
    assert found == {
        "stem": (1, 8, 1),
        "inner": (8, 8, 1),
        "outer": (8, 8, 1),
        "depthwise": (8, 8, 8),
        "pointwise": (8, 16, 1),
        "grouped": (16, 16, 4),
        "left": (16, 8, 1),
        "right": (16, 16, 1),
    }
    assert (pruned.module.head.in_features, pruned.module.head.out_features) == (24, 10)
    assert not pruned.left


def test_taking_channels_out_is_the_same_as_silencing_them(network):
    """The very channels, everywhere: checked with hooks, apart from the check of prune itself."""
    pruned = prune(network, example(), ratio=0.5)
    gone = {cut.layer: list(cut.channels) for cut in pruned.cuts}
    places = {
        "depthwise": ("stem_norm", "outer_norm", "depthwise"),  # summed, then read one by one
        "inner": ("inner",),
        "pointwise": ("pointwise",),
        "grouped": ("grouped_norm",),
        "left": ("left",),
        "right": ("right",),
    }
    assert set(gone) == set(places)
    for name, layers in places.items():
        for layer in layers:

            def silence(module, inputs, output, name=name):
                output = output.clone()
                output[:, gone[name]] = 0
                return output

            network.get_submodule(layer).register_forward_hook(silence)
    inputs = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        expected, found = network(inputs), pruned.module(inputs)
    assert torch.allclose(found, expected, atol=1e-5)
    assert float(expected.std()) > 0.01


def test_the_least_important_channels_go(network):
    with torch.no_grad():
        for channel in (1, 2, 5, 7, 8, 9, 12, 14):
            network.inner.weight[channel] *= 1e-4
            network.outer.weight[:, channel] *= 1e-4
    pruned = prune(network, example(), ratio=0.5)
    (cut,) = [cut for cut in pruned.cuts if cut.layer == "inner"]
    assert cut.channels == (1, 2, 5, 7, 8, 9, 12, 14)


def test_the_network_itself_stays_as_it_is(network):
    before = {name: each.clone() for name, each in network.state_dict().items()}
    prune(network, example(), ratio=0.5)
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])


def test_the_history_rebuilds_the_smaller_network_from_a_fresh_one(network, mixed):
    import json

    first = prune(network, example(), ratio=0.25)
    second = prune(first.module, example(), ratio=0.5)
    entries = json.loads(json.dumps([{"layers": first.layers}, {"layers": second.layers}]))
    fresh = mixed.function("architecture")()
    history.replay(fresh, entries, second.module.state_dict())
    fresh.load_state_dict(second.module.state_dict())
    inputs = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(inputs), second.module.eval()(inputs))
    assert size.measure(fresh, (inputs,)) == size.measure(second.module, (inputs,))


def test_pruning_is_deterministic(network):
    assert prune(network, example(), ratio=0.5).cuts == prune(network, example(), ratio=0.5).cuts


class Heads(nn.Module):
    """A view with a fixed size in the middle, which no graph shows."""

    def __init__(self):
        super().__init__()
        self.free = nn.Linear(8, 32)
        self.fixed = nn.Linear(32, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.fixed(torch.relu(self.free(x)))
        return self.head(x.view(x.shape[0], 4, 8).softmax(1).flatten(1))


def test_a_layer_whose_channels_are_counted_in_forward_is_left_and_said():
    pruned = prune(Heads(), (torch.rand(4, 8),), ratio=0.5)
    assert [cut.layer for cut in pruned.cuts] == ["free"]
    assert list(pruned.left) == ["fixed"]
    assert pruned.module(torch.rand(5, 8)).shape == (5, 3)


class Flat(nn.Module):
    """A concatenation that is flattened: the graph puts the second half's channels first."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 16, 1)
        self.right = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(2 * 16 * 64, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.head(x.flatten(1))


def test_a_group_that_the_graph_gets_wrong_is_left_and_said():
    torch.manual_seed(0)
    pruned = prune(Flat(), example(), ratio=0.5)
    assert [cut.layer for cut in pruned.cuts] == ["stem"]
    assert all("told apart" in reason for reason in pruned.left.values())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(8, 32)
        self.first = nn.Linear(32, 10)
        self.second = nn.Linear(32, 10)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = torch.relu(self.inside(x))
        return self.first(x) + self.second(x)


def test_tied_weights_stay_tied_and_frozen_ones_frozen():
    network = Tied()
    network.inside.requires_grad_(False)
    pruned = prune(network, (torch.rand(2, 8),), ratio=0.5).module
    assert pruned.inside.out_features == 16
    assert pruned.second.weight is pruned.first.weight
    assert not pruned.inside.weight.requires_grad
    assert pruned.first.weight.requires_grad


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Conv1d(8, 16, 1), nn.Sigmoid()),
    ],
)
def test_nothing_to_prune_is_said(network):
    inputs = torch.rand(4, 8, 5) if isinstance(network[0], nn.Conv1d) else torch.rand(4, 8)
    with pytest.raises(StepError, match="nothing can be pruned") as caught:
        prune(network, (inputs,), ratio=0.5)
    assert "multiples of 8" in caught.value.hint


@given(
    channels=st.integers(1, 4096),
    ratio=st.floats(0.01, 0.99),
    together=st.sampled_from([1, 2, 3, 4, 8, 32]),
)
def test_what_stays_is_a_multiple_of_eight_and_near_the_ratio(channels, ratio, together):
    stay = kept(channels, ratio, together=together)
    assert 0 < stay <= channels
    if stay < channels:
        assert stay % 8 == stay % together == 0
        step = max(8, 8 * together)
        assert abs(stay - channels * (1 - ratio)) <= step
