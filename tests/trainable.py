"""Packages of small torch definitions on scikit-learn's 8×8 digits."""

from pathlib import Path

import pytest

DEFINITIONS = Path(__file__).parent / "unit" / "training" / "definitions"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks this small gain nothing from threads, which wait long on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def package_of(tmp_path_factory):
    """Export a definition, with some text replaced; it is thrown away itself after."""
    import shutil

    from mlserve_cli.export.export import export
    from mlserve_cli.package.progress import Silent

    def make(name="mixed", *, replace=()):
        folder = tmp_path_factory.mktemp(name)
        text = (DEFINITIONS / f"{name}.py").read_text()
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        (folder / "definition").mkdir()
        (folder / "definition" / "model.py").write_text(text)
        package = export(
            str(folder / "definition" / "model.py"),
            folder / "package",
            name=name,
            calibration=None,
            progress=Silent(),
        )
        shutil.rmtree(folder / "definition")
        return package

    return make


@pytest.fixture(scope="session")
def mixed_package(package_of):
    return package_of()
