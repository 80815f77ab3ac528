"""From torch to ONNX: any batch size, the same bytes each time, nothing of this machine."""
# ruff: noqa: TID253

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mlserve_cli.errors import StepError
from mlserve_cli.graph import from_torch, parity
from mlserve_cli.runtime import engines

ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.9)
        self.head = nn.Linear(4, 3)

    def forward(self, picture):
        x = torch.relu(self.norm(self.conv(picture)))
        return self.head(self.drop(x.mean((2, 3))))


class Named(nn.Module):
    def forward(self, left, right):
        return {"total": left + right, "output": left - right}


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # the line that the error names
            return x
        return -x


class Singular(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


class Baked(nn.Module):
    def forward(self, x):
        return x.view(5, 3).sum(1)


class Pair(nn.Module):
    def forward(self, x):
        return x, {"not": "a tensor"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    module = Net()
    pictures = {"picture": np.random.default_rng(0).random((1, 1, 6, 6), np.float32)}
    folder = tmp_path_factory.mktemp("net")
    for name in ("one.onnx", "two.onnx"):
        module.train()  # dropout and batch statistics must not reach the file
        from_torch.write_onnx(module, pictures, folder / name)
    return module, folder


def test_the_same_model_gives_the_same_bytes(exported):
    _, folder = exported

    assert (folder / "one.onnx").read_bytes() == (folder / "two.onnx").read_bytes()


def test_the_file_says_nothing_of_where_it_was_made(exported):
    raw = (exported[1] / "one.onnx").read_bytes()

    assert b".py" not in raw
    assert b"stack_trace" not in raw
    assert str(exported[1]).encode() not in raw


def test_normalization_is_folded_into_the_convolution_before_it(exported):
    operators = {node.op_type for node in onnx.load(exported[1] / "one.onnx").graph.node}

    assert "Conv" in operators
    assert not operators & {"BatchNormalization", "Dropout"}


def test_one_row_in_the_sample_is_enough_for_any_batch(exported):
    module, folder = exported
    engine = engines.load("onnxruntime", folder / "one.onnx")
    rows = {"picture": np.random.default_rng(1).random((20, 1, 6, 6), np.float32)}

    found = parity.compare(lambda batch: from_torch.run(module, batch), engine, rows)

    assert engine.inputs[0].shape == ("batch", 1, 6, 6)
    assert [spec.name for spec in engine.outputs] == ["output"]
    assert found.relative_error < 1e-5


def test_a_dict_of_outputs_keeps_its_keys_and_several_inputs_their_names(tmp_path):
    from_torch.write_onnx(Named(), {"left": ROWS, "right": ROWS}, tmp_path / "m.onnx")
    engine = engines.load("onnxruntime", tmp_path / "m.onnx")

    assert [spec.name for spec in engine.inputs] == ["left", "right"]
    assert [spec.name for spec in engine.outputs] == ["total", "output"]


def test_outputs_and_further_sizes_can_be_named(tmp_path):
    from_torch.write_onnx(
        nn.ReLU(),
        {"input": ROWS},
        tmp_path / "m.onnx",
        outputs=["scores"],
        dynamic={"input": {1: "length"}},
    )
    engine = engines.load("onnxruntime", tmp_path / "m.onnx")

    assert engine.inputs[0].shape == ("batch", "length")
    assert engine.run({"input": np.ones((2, 9), np.float32)})["scores"].shape == (2, 9)


def test_a_branch_on_values_is_refused_with_its_line_and_the_exporter_is_silent(tmp_path, capfd):
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = 1 + next(i for i, text in enumerate(source) if "the line that the error names" in text)

    with pytest.raises(
        StepError, match=rf"cannot be traced at line {line} of 'test_from_torch.py'"
    ):
        from_torch.write_onnx(Branching(), {"x": ROWS}, tmp_path / "m.onnx")

    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "m.onnx").exists()


def test_an_operator_without_an_onnx_form_is_named(tmp_path):
    with pytest.raises(StepError, match=r"the operator 'aten\._linalg_svd', which has no ONNX"):
        from_torch.write_onnx(Singular(), {"x": ROWS}, tmp_path / "m.onnx")


def test_a_batch_size_that_was_baked_in_is_named(tmp_path):
    with pytest.raises(StepError, match="the batch size 5 was baked into the model"):
        from_torch.write_onnx(Baked(), {"x": ROWS}, tmp_path / "m.onnx")


def test_a_further_size_that_was_baked_in_is_named_with_its_dimension(tmp_path):
    class Three(nn.Module):
        def forward(self, x):
            return x @ torch.ones(3, 1)

    with pytest.raises(StepError, match="size 3 of dimension 1 of 'x' was baked into the model"):
        from_torch.write_onnx(
            Three(), {"x": ROWS}, tmp_path / "m.onnx", dynamic={"x": {1: "length"}}
        )


def test_a_sample_that_the_model_rejects_is_told_with_its_shapes():
    with pytest.raises(StepError, match=r"rejects the sample \(input float32 \(5, 3\)\)"):
        from_torch.run(nn.Linear(4, 2), {"input": ROWS})


def test_a_float64_sample_is_told_how_to_mend_it():
    with pytest.raises(StepError) as told:
        from_torch.run(nn.Linear(3, 2), {"input": ROWS.astype(np.float64)})

    assert told.value.hint == (
        "'input' is float64, NumPy's default: give it with .astype('float32')"
    )


def test_an_input_that_forward_does_not_take_is_named():
    with pytest.raises(StepError, match="the sample has an input 'pixels', and forward"):
        from_torch.run(Net(), {"pixels": ROWS})


def test_an_output_that_is_no_tensor_is_named():
    with pytest.raises(StepError, match="answers a dict as 'output_1'"):
        from_torch.run(Pair(), {"x": ROWS})
