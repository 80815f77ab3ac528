"""Servers with a gate in their engine."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.promises.gated import ENGINE, Gated


@pytest.fixture
def launch(
    iris_package: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Gated]]:
    """Start a server of two models whose engines have the gate; it is ended with the test."""
    monkeypatch.setenv("GATE_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gate_of_promises", raising=False)
    (tmp_path / "gate_of_promises.py").write_text(textwrap.dedent(ENGINE))
    engine = "gate_of_promises:GatedEngine"
    iris_package(tmp_path / "models" / "iris", engine=engine)
    iris_package(tmp_path / "models" / "other", name="other", engine=engine)
    made: list[Gated] = []

    def start(**settings: Any) -> Gated:
        made.append(Gated(tmp_path, **settings))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def server(launch: Callable[..., Gated]) -> Gated:
    return launch()
