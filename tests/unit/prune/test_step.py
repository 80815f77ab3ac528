# ruff: noqa: TID253
import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from mlserve_cli.distill import DistillStep
from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.prune import PruneStep
from mlserve_cli.runtime.manifest import StepRecord
from mlserve_cli.training import source


class Listening(Silent):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def pruned(mixed_package, tmp_path_factory):
    target = tmp_path_factory.mktemp("pruned") / "package"
    progress = Listening()
    return step.run(PruneStep(), mixed_package, target, progress=progress), progress.said


def test_the_result_is_a_smaller_package_that_says_what_was_done(pruned, mixed_package):
    package, said = pruned
    manifest = Package.open(package.path).manifest
    record = manifest.lineage[-1]
    assert manifest.variant == "pruned-fp32"
    assert (record.step, record.parent, record.seed) == (
        "prune",
        mixed_package.manifest.digest,
        0,
    )
    assert record.parameters["epochs"] == 1
    assert record.parameters["learning_rate"] == pytest.approx(0.02)
    assert record.parameters["macs"] < record.parameters["macs_before"] / 2
    assert record.parameters["parameters"] < record.parameters["parameters_before"] / 2
    assert package.size_bytes < mixed_package.size_bytes
    assert "torch-pruning" in record.libraries
    assert manifest.batch.invariant
    assert any("multiplications a row" in text for text in said)


def test_torch_and_onnx_answer_alike(pruned):
    package, _ = pruned
    rebuilt = source.load(package)
    images = rebuilt.definition.function("splits")()[1][0][:20]
    (spec,) = package.manifest.outputs
    engine = package.engine()
    found = engine.run({"image": images})[spec.name]
    engine.close()
    with torch.inference_mode():
        expected = rebuilt.module(torch.tensor(images)).numpy()
    assert np.allclose(found, expected, atol=1e-4)


def test_the_same_step_gives_the_same_digest(pruned, mixed_package, tmp_path):
    again = step.run(PruneStep(), mixed_package, tmp_path / "again", progress=Silent())
    assert again.manifest.digest == pruned[0].manifest.digest


def test_a_chain_of_steps_needs_nothing_but_the_package(pruned, tmp_path):
    """Prune, distill, prune again: the definition's own folder is long gone."""
    distilled = step.run(
        DistillStep(epochs=1), pruned[0], tmp_path / "distilled", progress=Silent()
    )
    again = step.run(PruneStep(epochs=1), distilled, tmp_path / "again", progress=Silent())
    assert again.manifest.variant == "pruned-distilled-pruned-fp32"
    found = source.load(Package.open(tmp_path / "again"))
    assert found.entry == "student"
    assert len(found.history) == 1
    assert found.module.conv.out_channels == 8
    twice = step.run(
        PruneStep(ratio=0.6, epochs=1), pruned[0], tmp_path / "twice", progress=Silent()
    )
    assert twice.manifest.variant == "pruned2-fp32"
    found = source.load(Package.open(tmp_path / "twice"))
    assert [entry["ratio"] for entry in found.history] == [0.5, 0.6]


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_ratio_outside_of_nought_and_one_is_refused(mixed_package, ratio, tmp_path):
    with pytest.raises(StepError, match="between 0 and 1"):
        step.run(PruneStep(ratio=ratio), mixed_package, tmp_path / "x", progress=Silent())
    assert not list(tmp_path.iterdir())


def test_a_package_of_no_torch_module_is_refused(iris_package):
    with pytest.raises(StepError, match="no torch module"):
        PruneStep().requires(iris_package())


def test_a_quantized_package_is_refused(mixed_package):
    lineage = (*mixed_package.manifest.lineage, StepRecord(step="quantize-static"))
    manifest = msgspec.structs.replace(mixed_package.manifest, lineage=lineage)
    with pytest.raises(StepError, match="is quantized"):
        PruneStep().requires(dataclasses.replace(mixed_package, manifest=manifest))


def test_a_definition_without_training_is_refused_before_torch_is_needed(package_of, tmp_path):
    package = package_of(replace=[("def training():", "def practice():")])
    with pytest.raises(StepError, match=r"no training\(\)") as caught:
        step.run(PruneStep(), package, tmp_path / "x", progress=Silent())
    assert "export again" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_ratio_that_removes_nothing_says_so_and_leaves_nothing(mixed_package, tmp_path):
    with pytest.raises(StepError, match="nothing can be pruned at ratio"):
        step.run(PruneStep(ratio=0.01), mixed_package, tmp_path / "x", progress=Silent())
    assert not list(tmp_path.iterdir())


def test_fine_tuning_that_diverges_leaves_nothing(mixed_package, tmp_path):
    with pytest.raises(StepError, match="diverged"):
        step.run(PruneStep(learning_rate=1e5), mixed_package, tmp_path / "x", progress=Silent())
    assert not list(tmp_path.iterdir())


def test_epochs_out_of_range_are_refused(mixed_package, tmp_path):
    with pytest.raises(DefinitionError, match="epochs"):
        step.run(PruneStep(epochs=0), mixed_package, tmp_path / "x", progress=Silent())
