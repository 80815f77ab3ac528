"""What was pruned or distilled goes on from its package alone: no other file is there any more."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.distill import DistillStep
from mlserve_cli.export.export import export
from mlserve_cli.finetune import TrainStep
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.verify import verify
from mlserve_cli.pipeline import steps
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.prune import PruneStep
from mlserve_cli.search.candidate import StepChoice

MIXED = Path(__file__).parents[2] / "unit" / "training" / "definitions" / "mixed.py"
DIGITS = "def calibration():\n    yield splits()[0][0][:64]\n\n\n"
SENTENCES = """

TRAINING = {"epochs": 1, "optimizer": "adamw", "learning_rate": 1e-3}


def rows(seed):
    import numpy as np

    ids = np.random.default_rng(seed).integers(4, 11, (96, 8))
    kept = {name: np.ones_like(ids) for name in FILLED}
    return {"input_ids": ids, **kept}, (ids[:, 1] > 7).astype("int64")


def training():
    given, classes = rows(0)
    for start in range(0, 96, 32):
        part = slice(start, start + 32)
        yield {name: array[part] for name, array in given.items()}, classes[part]


def calibration():
    yield rows(1)[0]


def evaluation():
    yield rows(2)
"""


def run(what, parent, target):
    """A step on a package that was moved away: neither its parent nor its definition is there."""
    moved = target.with_name(f"moved-{target.name}")
    shutil.copytree(parent.path, moved)
    made = step.run(what, Package.open(moved), target, progress=Silent())
    shutil.rmtree(moved)
    return made


def quantized(parent, target, **parameters):
    rows = Cases.of(parent).calibration(parent)
    assert rows is not None
    made = steps.build(StepChoice(step="quantize", parameters={"cache": False, **parameters}), rows)
    return step.run(made, parent, target, sample=rows, progress=Silent())


@pytest.fixture
def digits(tmp_path):
    text = MIXED.read_text().replace("def evaluation():", DIGITS + "def evaluation():")
    (tmp_path / "model.py").write_text(text)
    package = export(str(tmp_path / "model.py"), tmp_path / "float", progress=Silent())
    (tmp_path / "model.py").unlink()
    return package


@pytest.mark.slow  # six packages are written and proven
def test_a_convolutional_network_is_pruned_trained_distilled_pruned_and_quantized(digits, tmp_path):
    pruned = run(PruneStep(epochs=1), digits, tmp_path / "pruned")
    trained = run(TrainStep(epochs=1), pruned, tmp_path / "trained")
    student = run(DistillStep(epochs=1), trained, tmp_path / "student")
    smaller = run(PruneStep(epochs=1), student, tmp_path / "smaller")
    assert smaller.manifest.variant == "pruned-distilled-trained-pruned-fp32"
    sizes = [each.manifest.weight_bytes for each in (digits, pruned, student, smaller)]
    assert sizes == sorted(sizes, reverse=True)
    int8 = quantized(smaller, tmp_path / "int8")
    learned = quantized(trained, tmp_path / "qat", method="qat", epochs=1)
    for made in (int8, learned):
        assert all(check.passed for check in verify(made.path))
    assert [record.step for record in int8.manifest.lineage] == [
        "export", "prune", "train", "distill", "prune", "quantize-static"
    ]  # fmt: skip
    assert learned.evidence("training")


@pytest.mark.slow  # six packages are written and proven
def test_an_encoder_of_a_hugging_face_folder_goes_the_same_way(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, id2label={0: "low", 1: "high"},
    )  # fmt: skip
    folder = tmp_path / "folder"
    transformers.BertForSequenceClassification(config).eval().save_pretrained(folder)
    written = export(str(folder), tmp_path / "written", progress=Silent())
    # Its source/ is a definition: whoever adds training() to it exports it once more.
    mine = tmp_path / "mine"
    shutil.copytree(written.source, mine)
    filled = [spec.name for spec in written.manifest.inputs if spec.name != "input_ids"]
    with (mine / "definition.py").open("a") as file:
        file.write(f"\n\nFILLED = {filled!r}" + SENTENCES)
    parent = export(str(mine / "definition.py"), tmp_path / "float", progress=Silent())
    for gone in (folder, mine, written.path):
        shutil.rmtree(gone)

    pruned = run(PruneStep(epochs=1, ratio=0.5), parent, tmp_path / "pruned")
    trained = run(TrainStep(epochs=1), pruned, tmp_path / "trained")
    fewer = run(DistillStep(epochs=1, layers=1), trained, tmp_path / "fewer")
    assert (
        fewer.manifest.weight_bytes < trained.manifest.weight_bytes < parent.manifest.weight_bytes
    )
    int8 = quantized(fewer, tmp_path / "int8")
    assert all(check.passed for check in verify(int8.path))
    learned = quantized(fewer, tmp_path / "qat", method="qat", epochs=1)
    assert all(check.passed for check in verify(learned.path))
    engine = int8.engine()
    ids = np.array([[2, 9, 5, 6, 7, 3]])
    (scores,) = engine.run(
        {"input_ids": ids, **{name: np.ones_like(ids) for name in filled}}
    ).values()
    engine.close()
    assert scores.shape == (1, 2)
