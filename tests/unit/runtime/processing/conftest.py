"""Manifests and processors made in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve_cli.runtime import processing
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import Processor
from mlserve_cli.runtime.processing.declaration import Processing
from mlserve_cli.runtime.tensors import TensorSpec


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Processor]:
    """Build a processor; `inputs` and `outputs` are (name, datatype, shape) each."""

    def build(
        inputs: Any = (("x", "FP32", ("batch", 3)),),
        outputs: Any = (("y", "FP32", ("batch", 3)),),
        labels: tuple[str, ...] = (),
        **declared: Any,
    ) -> Processor:
        manifest = Manifest(
            name="m",
            version="1",
            variant="fp32",
            inputs=tuple(TensorSpec(*item) for item in inputs),
            outputs=tuple(TensorSpec(*item) for item in outputs),
            labels=labels,
            processing=Processing(**declared),
        )
        return processing.build(manifest, tmp_path)

    return build
