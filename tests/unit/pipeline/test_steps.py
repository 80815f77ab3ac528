import importlib

import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.pipeline.steps import STEPS, build
from mlserve_cli.search.candidate import StepChoice


@pytest.mark.parametrize("target", STEPS.values())
def test_every_entry_of_the_table_is_there(target):
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_a_step_that_there_is_none_of_is_named_with_those_that_there_are():
    with pytest.raises(StepError, match="'shrink' is no step") as caught:
        build(StepChoice(step="shrink"), None)
    assert "quantize" in caught.value.hint


def test_a_parameter_that_a_step_does_not_take_is_named():
    with pytest.raises(StepError, match="colour"):
        build(StepChoice(step="prune", parameters={"colour": "red"}), None)
    with pytest.raises(StepError, match="'magic' is no method"):
        build(StepChoice(step="quantize", parameters={"method": "magic"}), None)


def test_static_int8_without_rows_says_what_is_missing():
    with pytest.raises(StepError, match="real rows, and there are none"):
        build(StepChoice(step="quantize"), None)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("calibrator", "magic", "percentile"),
        ("target_isa", "mips", "avx2"),
        ("bias_correction", "yes", ""),
        (
            "exclude",
            "conv1",
            "",
        ),  # one name is no list of names, and would be read letter by letter
        ("percentile", "99", ""),
    ],
)
def test_a_value_that_a_parameter_cannot_have_is_named_before_anything_is_done(name, value, hint):
    with pytest.raises(StepError, match=f"'{name}' of the step 'quantize' is '{value}'") as caught:
        build(StepChoice(step="quantize", parameters={name: value}), [])
    assert hint in caught.value.hint
