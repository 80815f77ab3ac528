import pytest

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.training.options import TrainingOptions


def test_defaults_stand_where_training_says_nothing(write_definition):
    options = TrainingOptions.of(write_definition("def model(): pass\n"))
    assert options == TrainingOptions()
    assert options.peak == 0.05
    assert TrainingOptions(optimizer="adamw").peak == 1e-3


def test_changes_that_are_given_replace_what_training_says(write_definition):
    definition = write_definition('TRAINING = {"epochs": 3, "learning_rate": 0.2}\n')
    options = TrainingOptions.of(definition, epochs=7, learning_rate=None)
    assert (options.epochs, options.peak) == (7, 0.2)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"epoch": 3}', "epoch"),
        ('{"epochs": 0}', "$.epochs"),
        ('{"epochs": "many"}', "$.epochs"),
        ('{"optimizer": "adam"}', "$.optimizer"),
        ('{"learning_rate": -1}', "$.learning_rate"),
        ("5", "int"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(write_definition, text, named):
    definition = write_definition(f"TRAINING = {text}\n")
    with pytest.raises(DefinitionError) as caught:
        TrainingOptions.of(definition)
    assert named in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("learning_rate", float("nan")), ("learning_rate", -1.0), ("ema", 2.0)],
)
def test_a_change_from_the_command_line_is_named_with_its_value_and_what_is_allowed(
    write_definition, name, value
):
    with pytest.raises(
        StepError, match=rf"^{name} cannot be {value}: expected \w+ [<>]=? \d"
    ) as at:
        TrainingOptions.of(write_definition("TRAINING = {}\n"), **{name: value})
    assert "TRAINING" in at.value.hint
