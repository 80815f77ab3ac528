"""Packages of small torch definitions on scikit-learn's 8×8 digits."""

from pathlib import Path

import pytest

MIXED = Path(__file__).parents[1] / "training" / "definitions" / "mixed.py"


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Networks this small gain nothing from threads, which wait long on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def package_of(tmp_path_factory):
    """Export mixed.py, with some text replaced; the definition itself is thrown away after."""
    import shutil

    from mlserve_cli.export.export import export
    from mlserve_cli.package.progress import Silent

    def make(*, replace=()):
        folder = tmp_path_factory.mktemp("mixed")
        text = MIXED.read_text()
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        (folder / "definition").mkdir()
        (folder / "definition" / "model.py").write_text(text)
        package = export(
            str(folder / "definition" / "model.py"),
            folder / "package",
            name="mixed",
            calibration=None,
            progress=Silent(),
        )
        shutil.rmtree(folder / "definition")
        return package

    return make


@pytest.fixture(scope="session")
def mixed_package(package_of):
    return package_of()
