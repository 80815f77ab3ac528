"""Rows for calibration, as the package takes them."""

import numpy as np
import pytest

from mlserve_cli.package.definition import Definition
from mlserve_cli.pipeline.cases import Cases


@pytest.mark.parametrize(
    "text",
    [
        "import numpy\ndef sample():\n    return numpy.ones((2, 4))\n",
        "import numpy\ndef calibration():\n    yield numpy.ones((2, 4))\n",
    ],
)
def test_float64_of_a_definition_becomes_what_the_model_takes(iris_package, tmp_path, text):
    path = tmp_path / "model.py"
    path.write_text(text)

    rows = Cases(definition=Definition.load(path)).calibration(iris_package())

    assert [batch["x"].dtype for batch in rows] == [np.float32]
    assert [batch["x"].dtype for batch in rows] == [np.float32], "they can be gone through again"
