"""The story of samples/foreign: a ready file with a memory, as it came and in int8."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.export.export import export
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.quantize.static import StaticStep

SAMPLE = Path(__file__).parents[3] / "samples" / "foreign"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None,
    reason="'silero-vad' is not installed; scripts/install installs it",
)


def package(folder, *flags):
    """The sample's package, its file adapted with these flags."""
    shutil.copytree(SAMPLE, folder / "foreign", ignore=shutil.ignore_patterns("*.onnx"))
    adapt = [sys.executable, str(folder / "foreign" / "adapt.py"), *flags]
    subprocess.run(adapt, check=True, capture_output=True, timeout=60)
    return export(str(folder / "foreign" / "model.py"), folder / "speech")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return package(tmp_path_factory.mktemp("as-it-came"))


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    return package(tmp_path_factory.mktemp("flat"), "--flat")


@pytest.fixture(scope="module")
def recordings(speech):
    """Two of the sample's recordings as windows, (windows, 576) each."""
    module = Definition.load(speech.source / "definition.py").module
    return [module.rows(seed)[0]["audio"][:60] for seed in (3, 4)]


def heard(package, *streams):
    """Each stream's answers while its memory is carried; those of one moment share a batch."""
    engine = package.engine()
    memory = np.zeros((len(streams), 2, 128), np.float32)
    answers = []
    for moment in zip(*streams, strict=True):
        outputs = engine.run({"audio": np.stack(moment), "memory": memory})
        memory = outputs["next_memory"]
        answers.append(outputs["speech"][:, 0])
    engine.close()
    return np.array(answers).T


def test_callers_that_share_a_batch_keep_their_own_memories(speech, recordings):
    assert speech.manifest.batch.invariant
    together = heard(speech, *recordings)
    alone = [heard(speech, stream)[0] for stream in recordings]

    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=0.1)


def test_it_hears_voices_where_they_are(speech):
    found = Cases.of(speech).evaluate(speech, reference=speech, progress=Silent())

    assert found.metric.name == "windows heard right"
    assert found.value > 98


def test_with_every_if_decided_it_answers_the_same(speech, decided, recordings):
    import onnx

    assert "If" not in {node.op_type for node in onnx.load(decided.model).graph.node}
    assert np.allclose(heard(speech, recordings[0]), heard(decided, recordings[0]), atol=1e-5)


def test_inside_its_if_nothing_can_be_quantized_and_that_is_said(speech, tmp_path):
    cases = Cases.of(speech)

    with pytest.raises(StepError, match="nothing to quantize"):
        run(
            StaticStep(cases.calibration(speech)),
            speech,
            tmp_path / "int8",
            progress=Silent(),
        )


def test_int8_is_as_right_and_does_not_drift_when_its_memory_is_carried(
    decided, recordings, tmp_path
):
    cases = Cases.of(decided)
    rows = cases.calibration(decided)

    int8 = run(StaticStep(rows), decided, tmp_path / "int8", sample=rows, progress=Silent())

    before, after = (
        cases.evaluate(each, reference=decided, progress=Silent()) for each in (decided, int8)
    )
    assert before.value - after.value <= 1.0
    carried = [heard(each, recordings[1])[0] > 0.5 for each in (decided, int8)]
    assert np.mean(carried[0] == carried[1]) > 0.9
