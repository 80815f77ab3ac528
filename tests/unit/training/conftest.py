"""Definitions on scikit-learn's 8×8 digits, each test in a folder of its own."""

import shutil
from pathlib import Path

import pytest

MIXED = Path(__file__).with_name("definitions") / "mixed.py"


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small gain nothing from threads, which wait long on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_definition(tmp_path):
    """Write a definition (by default mixed.py, with some text replaced) and import it."""
    from mlserve_cli.package.definition import Definition

    def write(text=None, *, replace=()):
        text = MIXED.read_text() if text is None else text
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        folder = tmp_path / "definition"
        folder.mkdir(exist_ok=True)
        (folder / "model.py").write_text(text)
        return Definition.load(folder / "model.py")

    yield write
    shutil.rmtree(tmp_path / "definition", ignore_errors=True)


@pytest.fixture
def mixed(write_definition):
    return write_definition()
