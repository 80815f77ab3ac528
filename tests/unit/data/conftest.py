"""Manifests, and reading made short."""

import pytest

from mlserve_cli.data.source import read
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import TensorSpec


@pytest.fixture
def make_manifest():
    """A manifest of the given inputs: (name, datatype, shape) each, the batch left out."""

    def make(*inputs, **fields) -> Manifest:
        specs = tuple(
            TensorSpec(name, datatype, ("batch", *shape))
            for name, datatype, shape in inputs or [("x", "FP32", (2,))]
        )
        return Manifest(
            name="made",
            version="1",
            variant="fp32",
            inputs=specs,
            outputs=(TensorSpec("y", "FP32", ("batch", 2)),),
            **fields,
        )

    return make


@pytest.fixture
def load(tmp_path):
    """Read a file to its end: a list of batches."""

    def load(spec, manifest, **options):
        processor = processing.build(manifest, tmp_path)
        return list(read(str(spec), manifest, processor, **options))

    return load


@pytest.fixture
def write(tmp_path):
    """Write a text (or bytes) to a file of that name."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
