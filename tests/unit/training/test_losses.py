# ruff: noqa: TID253, N812
import pytest
import torch
import torch.nn.functional as F

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.training.losses import main_output, task_loss
from mlserve_cli.training.options import TrainingOptions

PLAIN = "def model(): pass\n"


@pytest.fixture
def loss(write_definition):
    return task_loss(write_definition(PLAIN), TrainingOptions(label_smoothing=0.1))


def test_whole_numbers_are_classes_with_label_smoothing(loss):
    scores, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert loss(scores, classes) == F.cross_entropy(scores, classes, label_smoothing=0.1)


def test_floating_point_targets_give_the_squared_error_without_broadcasting(loss):
    scores, wanted = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0])
    assert float(loss(scores, wanted)) == pytest.approx(1 / 3)


def test_the_definitions_own_loss_comes_first(write_definition):
    definition = write_definition(
        PLAIN + "def loss(outputs, targets): return (outputs['a'] - targets).abs().sum()\n"
    )
    own = task_loss(definition, TrainingOptions())
    assert float(own({"a": torch.ones(2)}, torch.zeros(2))) == 2.0


def test_what_the_definitions_own_loss_raises_names_its_line(write_definition):
    definition = write_definition(PLAIN + "def loss(outputs, targets):\n    return 1 / 0\n")
    with pytest.raises(DefinitionError, match="line 3"):
        task_loss(definition, TrainingOptions())(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.randn(4, 2), torch.randn(4)),
        (torch.randn(4, 1), torch.zeros(4, dtype=torch.long)),
        (torch.randn(4), torch.zeros(4, dtype=torch.long)),
        (torch.randn(4, 3), torch.zeros(5, dtype=torch.long)),
    ],
)
def test_shapes_that_do_not_fit_are_named(loss, outputs, targets):
    with pytest.raises(StepError) as caught:
        loss(outputs, targets)
    assert str(tuple(outputs.shape)) in caught.value.message
    assert str(tuple(targets.shape)) in caught.value.message


def test_the_main_output_is_the_first_of_several():
    first, second = torch.zeros(1), torch.ones(1)
    assert main_output((first, second)) is first
    assert main_output({"a": first, "b": second}) is first
    assert main_output(second) is second
