"""Definitions written on the spot, and their export."""

import pytest


@pytest.fixture
def define(tmp_path):
    """Write a definition, with files beside it, and return its path."""

    def write(text, **files):
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
        path = folder / "model.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def exported(define, tmp_path):
    """Export a definition to a package and return it."""
    from mlserve_cli.export.export import export

    def run(text, **options):
        return export(str(define(text)), tmp_path / "package", overwrite=True, **options)

    return run
