from pathlib import Path

import pytest

from mlserve_cli.export.ensemble import defaults
from mlserve_cli.export.ensemble.source import EnsembleFile
from mlserve_cli.export.ensemble.wiring import Wired
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.runtime.ensemble.declaration import OperationStep, PackageStep
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)


@pytest.fixture
def chosen(tmp_path):
    """The processing of an ensemble of one package with this processing, renamed by its step."""
    (tmp_path / "member" / "serve").mkdir(parents=True)
    (tmp_path / "member" / "serve" / "tokenizer.json").write_text("{}")
    (tmp_path / "serve").mkdir()

    def make(processing, inputs, outputs, *, also=(), answered=("out",), extra=()):
        manifest = Manifest(
            name="m", version="1", variant="v", inputs=(), outputs=(), processing=processing
        )
        step = PackageStep(name="m", member="m", inputs=inputs, outputs=outputs)
        wired = Wired(
            steps=(step, *also),
            inputs=(*inputs.values(), *extra),
            members={"m": Package(tmp_path / "member", manifest)},
        )
        file = EnsembleFile(steps=[], outputs=list(answered), path=Path("e.toml"), entries=())
        found, _ = defaults.processing(file, wired, tmp_path / "serve", Silent())
        return found

    return make


def test_a_picture_goes_into_the_tensor_that_the_step_names(chosen):
    image = ImageInput(tensor="image", width=8, height=8)
    found = chosen(Processing(input=image), {"image": "photo"}, {"y": "out"})

    assert found.input == ImageInput(tensor="photo", width=8, height=8)


def test_a_text_brings_its_tokenizer_along(chosen, tmp_path):
    text = TextInput(tensor="ids", tokenizer="tokenizer.json", mask="mask")
    found = chosen(Processing(input=text), {"ids": "a", "mask": "b"}, {"y": "out"})

    assert found.input == TextInput(tensor="a", tokenizer="tokenizer.json", mask="b")
    assert (tmp_path / "serve" / "tokenizer.json").read_text() == "{}"


def test_columns_with_tensors_of_their_own_are_renamed_one_by_one(chosen):
    table = TableInput(columns=(Column("age", tensor="x"), Column("sex", tensor="y")))
    found = chosen(Processing(input=table), {"x": "first", "y": "second"}, {"z": "out"})

    assert [column.tensor for column in found.input.columns] == ["first", "second"]


def test_an_input_that_the_first_package_does_not_feed_leaves_tensors_to_the_client(chosen):
    image = ImageInput(tensor="image", width=8, height=8)
    found = chosen(Processing(input=image), {"image": "photo"}, {"y": "out"}, extra=("other",))

    assert found.input is None


def test_an_answer_that_no_package_speaks_of_stays_a_tensor(chosen):
    found = chosen(Processing(output=ValuesOutput(tensor="y")), {"x": "x"}, {"y": "hidden"})

    assert found.output is None


def test_a_claim_follows_its_tensor_through_softmax_and_mean(chosen):
    also = (
        OperationStep(name="s", operation="softmax", inputs=("logits",), output="shares"),
        OperationStep(name="v", operation="mean", inputs=("shares",), output="out"),
    )
    declared = ClassesOutput(tensor="y", softmax=True, top_k=5)
    found = chosen(Processing(output=declared), {"x": "x"}, {"y": "logits"}, also=also)

    assert found.output == ClassesOutput(tensor="out", softmax=False, top_k=5)


def test_what_becomes_of_scores_in_other_operations_is_not_guessed(chosen):
    also = (OperationStep(name="a", operation="argmax", inputs=("scores",), output="out"),)
    declared = ClassesOutput(tensor="y")
    found = chosen(Processing(output=declared), {"x": "x"}, {"y": "scores"}, also=also)

    assert found.output is None
