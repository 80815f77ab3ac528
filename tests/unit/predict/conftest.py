"""A predictor made short, and a package whose output is text."""

import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.predict.prediction import predict


@pytest.fixture
def run(tmp_path):
    """Predict a text (or a path) into a file of the given name; return its path and the report."""

    def run(package, content, target, *, source="in.csv", **options):
        path = tmp_path / source
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        out = tmp_path / target
        report = predict(package, str(path), str(out), progress=Silent(), **options)
        return out, report

    return run
