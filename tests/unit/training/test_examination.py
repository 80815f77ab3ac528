# ruff: noqa: TID253
import numpy as np
import pytest
import torch

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.training import inputs
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions

OPTIONS = TrainingOptions(epochs=1, precision="fp32")


class NoLoss:
    """A definition that leaves the loss to what the targets ask for."""

    def has(self, name):
        return False


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    )


def rows(count=4):
    draws = torch.Generator().manual_seed(1)
    return [
        ((torch.randn(8, 4, generator=draws),), torch.arange(8).remainder(3)) for _ in range(count)
    ]


def run(batches, *, module=None, loss=None):
    module = module or network()
    train(
        module,
        lambda: iter(batches),
        options=OPTIONS,
        loss=loss or task_loss(NoLoss(), OPTIONS),
        seed=0,
        progress=Silent(),
    )
    return module


@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "an infinite number")]
)
def test_a_number_that_is_none_is_found_with_its_row_before_anything_is_learned(value, word):
    batches, module = rows(), network()
    batches[2][0][0][5, 1] = value
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(StepError, match=f"batch 3 of .* has {word} in an input, in row 6") as found:
        run(batches, module=module)
    assert found.value.hint
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_network_that_knows_what_to_do_with_nan_is_trained():
    class Filling(torch.nn.Sequential):
        def forward(self, values):
            return super().forward(torch.nan_to_num(values))

    batches = rows()
    batches[1][0][0][0, 0] = float("nan")
    module = run(batches, module=Filling(*network()))
    assert all(torch.isfinite(each).all() for each in module.parameters())


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_that_the_network_has_no_score_of_is_named(label):
    batches, module = rows(), network()
    batches[3][1][4] = label
    with pytest.raises(StepError, match=f"is {label}, and the network answers with 3 scores"):
        run(batches, module=module)
    assert module[1].num_batches_tracked == 0


def test_rows_that_cross_entropy_ignores_may_stay():
    batches = rows()
    batches[0][1][4] = -100
    assert run(batches)[1].num_batches_tracked == 4


def test_a_loss_of_ones_own_may_take_any_whole_numbers():
    def counts(outputs, targets):
        return (outputs[:, 0] - targets).square().mean()

    batches = [(given, targets * 50) for given, targets in rows()]
    assert run(batches, loss=counts)[1].num_batches_tracked == 4


def test_a_loss_is_called_at_steps_alone_where_nothing_is_odd():
    calls = []

    def counted(outputs, targets):
        calls.append(outputs.requires_grad)
        return torch.nn.functional.cross_entropy(outputs, targets)

    run(rows(), loss=counted)
    assert calls == [True] * 4


@pytest.mark.parametrize("value", [1.5, torch.zeros(8)])
def test_a_loss_that_is_no_number_of_torch_is_a_sentence(value):
    with pytest.raises(StepError, match=r"loss\(\) returns") as found:
        run(rows(), loss=lambda outputs, targets: value)
    assert "mean" in found.value.hint


@pytest.mark.parametrize("value", [None, [1, None], np.array([3, 2**64 - 1], np.uint64)])
def test_targets_that_are_missing_or_too_large_are_a_sentence(value):
    with pytest.raises(DefinitionError) as found:
        inputs.targets(value)
    assert found.value.hint


def test_a_network_whose_outputs_are_a_class_of_the_users_is_trained():
    """Its loss alone knows what is in them, so labels are left to it."""

    class Scores:
        def __init__(self, values):
            self.values = values

    class Answering(torch.nn.Sequential):
        def forward(self, values):
            return Scores(super().forward(values))

    def loss(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs.values.float(), targets)

    module = run(rows(), module=Answering(*network()), loss=loss)
    assert int(module[1].num_batches_tracked) == 4
    beyond = rows()
    beyond[2][1][5] = 3
    with pytest.raises(StepError, match="out of bounds"):
        run(beyond, module=Answering(*network()), loss=loss)


def test_a_target_without_a_row_of_its_own_may_be_no_number():
    batches = [(given, {"labels": labels, "weight": torch.tensor(1.0)}) for given, labels in rows()]
    batches[1][1]["weight"].fill_(float("nan"))

    def loss(outputs, targets):
        value = torch.nn.functional.cross_entropy(outputs, targets["labels"])
        return value * targets["weight"]

    with pytest.raises(StepError, match=r"batch 2 of .* has NaN in a target"):
        run(batches, loss=loss)
