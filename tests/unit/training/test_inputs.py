# ruff: noqa: TID253
import numpy as np
import pytest
import torch
from torch import nn

from mlserve_cli.errors import DefinitionError
from mlserve_cli.training.inputs import batches, input_names, targets, tensors


class Two(nn.Module):
    def forward(self, ids, mask, extra=None):
        return ids


def test_names_are_those_of_forward_as_many_as_the_sample_fills():
    assert input_names(Two(), np.zeros(3)) == ("ids",)
    assert input_names(Two(), (np.zeros(3), np.zeros(3))) == ("ids", "mask")
    assert input_names(Two(), {"extra": 1, "ids": 2}) == ("ids", "extra")


def test_a_sample_that_forward_does_not_take_is_refused():
    with pytest.raises(DefinitionError, match="'pixels'"):
        input_names(Two(), {"pixels": 1})
    with pytest.raises(DefinitionError, match="4 inputs"):
        input_names(Two(), (1, 2, 3, 4))


def test_inputs_come_in_the_order_of_the_names():
    first, second = tensors({"b": np.ones(2), "a": np.zeros(2)}, ("a", "b"), what="sample()")
    assert first.tolist() == [0, 0]
    assert second.tolist() == [1, 1]


def test_text_is_no_input_of_torch():
    with pytest.raises(DefinitionError, match="text for 'a'"):
        tensors(np.array(["x"]), ("a",), what="sample()")


def test_targets_become_int64_or_float32_in_the_form_they_have():
    found = targets({"box": np.zeros((2, 4)), "kind": (np.uint8([1, 2]), torch.ones(2))})
    assert found["box"].dtype == torch.float32
    assert [each.dtype for each in found["kind"]] == [torch.int64, torch.float32]
    with pytest.raises(DefinitionError, match="text as targets"):
        targets(["cat", "dog"])


def test_each_call_is_another_epoch(mixed):
    once = batches(mixed, ("image",), "evaluation")
    for _ in range(2):
        ((images,), classes), *rest = once()
        assert images.shape == (397, 1, 8, 8)
        assert classes.shape == (397,)
        assert not rest


def test_what_is_no_pair_is_refused(write_definition):
    definition = write_definition("def training():\n    yield 1\n")
    with pytest.raises(DefinitionError, match="must yield"):
        list(batches(definition, ("image",))())
