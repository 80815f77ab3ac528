# ruff: noqa: TID253
import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from mlserve_cli.distill import DistillStep
from mlserve_cli.errors import StepError
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
    with pytest.raises(StepError, match="epochs"):
        step.run(PruneStep(epochs=0), mixed_package, tmp_path / "x", progress=Silent())


def test_a_transformer_loses_heads_width_and_a_layer_and_goes_on_from_its_source(
    package_of, tmp_path
):
    parent = package_of("encoder")
    progress = Listening()
    first = step.run(
        PruneStep(drop_blocks=1, epochs=1), parent, tmp_path / "first", progress=progress
    )
    record = first.manifest.lineage[-1].parameters
    assert record["drop_blocks"] == 1
    assert record["macs"] < 0.45 * record["macs_before"]
    assert any(
        "4 attention heads taken out; dropped encoder.layers" in said for said in progress.said
    )
    second = step.run(
        PruneStep(epochs=1, recover="targets"), first, tmp_path / "second", progress=Silent()
    )
    network = source.load(Package.open(second.path)).module
    heads = [getattr(layer, "self_attn", None) for layer in network.encoder.layers]
    assert sorted(each.num_heads for each in heads if each is not None) == [1, 1]
    assert network.encoder.layers[0].linear1.out_features == 16


def test_several_steps_end_at_the_goal_and_leave_one_entry_in_the_history(mixed_package, tmp_path):
    made = step.run(
        PruneStep(macs=0.4, iterations=2, scope="global", importance="taylor", epochs=2),
        mixed_package,
        tmp_path / "made",
        progress=Silent(),
    )
    record = made.manifest.lineage[-1].parameters
    assert record["macs"] <= 0.4 * record["macs_before"]
    assert (record["iterations"], record["scope"], record["importance"]) == (2, "global", "taylor")
    assert len(source.load(made).history) == 1


def test_a_speed_that_cannot_be_reached_is_refused_before_any_training(mixed_package, tmp_path):
    progress = Listening()
    with pytest.raises(StepError, match=r"1e\+06 times faster cannot be reached"):
        step.run(PruneStep(speedup=1e6), mixed_package, tmp_path / "x", progress=progress)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"ratio": 0.5, "macs": 0.5}, "--ratio and --macs are two goals"),
        ({"speedup": 2, "target_ms": 1}, "--speedup and --target-ms are two goals"),
        ({"macs": 1.0}, "share of macs to keep is 1"),
        ({"speedup": 1.0}, "more than 1"),
        ({"target_ms": 0.0}, "more than 0"),
        ({"heads": 1.0}, "less than 1"),
        ({"importance": "luck"}, "'luck' is no importance"),
        ({"scope": "all"}, "'all' is no scope"),
        ({"recover": "sleep"}, "'sleep' is no recover"),
        ({"iterations": 0}, "1 to 20"),
        ({"drop_blocks": -1}, "cannot be dropped"),
    ],
)
def test_choices_out_of_range_are_refused_before_anything_is_loaded(mixed_package, choices, said):
    with pytest.raises(StepError) as caught:
        PruneStep(**choices).requires(mixed_package)
    assert said in caught.value.message
    assert caught.value.hint


def test_shares_that_follow_sensitivity_spare_the_layer_that_minds_most(mixed_package, tmp_path):
    made = step.run(
        PruneStep(macs=0.5, scope="sensitivity", epochs=1),
        mixed_package,
        tmp_path / "made",
        progress=Silent(),
    )
    record = made.manifest.lineage[-1].parameters
    assert record["macs"] <= 0.5 * record["macs_before"]
