# ruff: noqa: TID253
import numpy as np
import pytest
import torch

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.training import validation
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.options import TrainingOptions

HEAD = "import numpy as np\nimport torch\ndef model(): pass\n"
BATCH = "        yield np.full((4, 2), place, np.float32), np.zeros(4, int)\n"
ROWS = "    for place in range(20):\n" + BATCH
ORDERED = HEAD + "def training():\n" + ROWS
SHUFFLED = HEAD + (
    "def training():\n    for place in torch.randperm(20):\n"
    "        yield np.full((4, 2), place, np.float32), np.zeros(4, int)\n"
)
OWN = "def validation():\n    yield np.full((3, 2), 99, np.float32), np.array([0, 1, 0])\n"


def choose(definition, **options):
    given = batches(definition, ("x",))
    return validation.choose(
        definition, ("x",), TrainingOptions(**options), batches=given, outputs=("scores",)
    )


def places(once):
    return [int(inputs[0][0, 0]) for inputs, _ in once()]


def test_rows_of_validation_are_taken_and_training_keeps_all_of_its_own(write_definition):
    given, rows = choose(write_definition(SHUFFLED + OWN))
    assert sorted(places(given)) == list(range(20))
    assert places(rows.batches) == [99]


def test_without_patience_and_without_rows_nothing_is_validated(write_definition):
    given, rows = choose(write_definition(ORDERED))
    assert rows is None
    assert places(given) == list(range(20))


def test_a_share_of_batches_that_keep_their_order_is_held_out(write_definition):
    given, rows = choose(write_definition(ORDERED), patience=2)
    assert places(rows.batches) == [9, 19]
    assert places(given) == [place for place in range(20) if place not in (9, 19)]
    assert "one batch in 10" in rows.source


def test_shuffled_batches_cannot_be_held_out_and_that_is_said(write_definition):
    with pytest.raises(StepError, match="in another order each epoch") as caught:
        choose(write_definition(SHUFFLED), patience=2)
    assert "validation()" in caught.value.hint


def test_too_few_batches_to_hold_one_out_are_refused(write_definition):
    text = ORDERED.replace("range(20)", "range(9)")
    with pytest.raises(StepError, match="fewer than 10"):
        choose(write_definition(text), patience=2)


class Scores(torch.nn.Module):
    """Answers class 0 for all rows, and counts whether it was in eval mode."""

    def forward(self, x):
        assert not self.training
        return torch.tensor([[2.0, 1.0]]).expand(len(x), 2)


def test_accuracy_is_in_points_and_the_module_goes_on_training(write_definition):
    _, rows = choose(write_definition(SHUFFLED + OWN))
    module = Scores().train()
    before = torch.get_rng_state()
    assert rows.measure(module, device="cpu", kind="fp32") == pytest.approx(200 / 3)
    assert module.training
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_as_targets_are_measured_by_their_error(write_definition):
    text = OWN.replace("np.array([0, 1, 0])", "np.array([[2.0, 3.0]] * 3)")
    _, rows = choose(write_definition(SHUFFLED + text))
    assert not rows.metric.higher_is_better
    assert rows.measure(Scores(), device="cpu", kind="fp32") == pytest.approx(1.0)


def test_the_metric_of_the_definition_gets_all_rows_as_arrays(write_definition):
    own = (
        'METRIC = {"name": "share", "higher_is_better": False, "unit": "%"}\n'
        "def metric(outputs, targets):\n"
        "    assert isinstance(outputs, np.ndarray) and isinstance(targets, np.ndarray)\n"
        "    return float(len(outputs))\n"
    )
    two = OWN + "    yield np.zeros((2, 2), np.float32), np.array([0, 1])\n"
    _, rows = choose(write_definition(SHUFFLED + two + own))
    assert rows.measure(Scores(), device="cpu", kind="fp32") == 5.0
    assert rows.metric.name == "share"


def test_several_outputs_are_given_by_name(write_definition):
    own = "def metric(outputs, targets):\n    return (outputs['scores'][:, 0] == 2).astype(float)\n"
    _, rows = choose(write_definition(SHUFFLED + OWN + own))

    class Two(Scores):
        def forward(self, x):
            return super().forward(x), x

    rows = validation.Validation(
        batches=rows.batches, metric=rows.metric, score=rows.score, outputs=("scores", "other")
    )
    assert rows.measure(Two(), device="cpu", kind="fp32") == 100.0


def test_targets_that_no_built_in_metric_fits_are_a_sentence(write_definition):
    text = OWN.replace("np.array([0, 1, 0])", "(np.zeros(3), np.zeros(3))")
    with pytest.raises(DefinitionError, match="no built-in metric"):
        choose(write_definition(SHUFFLED + text))


def test_validation_without_rows_is_a_sentence():
    rows = validation.Validation(
        batches=list, metric=validation.Metric(), score=lambda a, b: np.zeros(1)
    )
    with pytest.raises(StepError, match="yields no batches"):
        rows.measure(Scores(), device="cpu", kind="fp32")
