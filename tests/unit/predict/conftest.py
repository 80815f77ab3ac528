"""A predictor made short, and a package whose output is text."""

import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.predict.prediction import Choices, predict


@pytest.fixture
def run(tmp_path):
    """Predict a text (or a path) into a file of the given name; return its path and the report."""

    def run(package, content, target, *, source="in.csv", **choices):
        path = tmp_path / source
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        out = tmp_path / target
        report = predict(
            package,
            [str(path)],
            f"{out}/" if target.endswith("/") else str(out),
            choices=Choices(**choices),
            progress=Silent(),
        )
        return out, report

    return run
