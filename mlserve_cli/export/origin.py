"""What every kind of source leaves behind once its model is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.graph.parity import Parity
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Processing,
    TableInput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A model that was written for its engine and compared with its source.

    kind: "torch", "scikit-learn", "onnx", or a ready file's suffix. variant: what it computes in.
    parameters, libraries: for the lineage.
    parity: how far it agrees with its source; None for a ready file, which is the source.
    sample: a few real rows by input name; None where there are none yet. made_up: rows that the
    source's kind suggests, where the user gave none.
    processing: what the source's own files say of it; a definition's PROCESSING wins.
    labels, input, output: what could be told from the model itself.
    module: the torch module, for `source/`. write_source: writes that folder where there is no
    definition of the user's to keep in it.
    engine, model: what the manifest says of them.
    """

    kind: str
    variant: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    parity: Parity | None = None
    sample: Tensors | None = None
    made_up: Tensors | None = None
    processing: Processing | None = None
    labels: tuple[str, ...] = ()
    input: TableInput | None = None
    output: ClassesOutput | ValuesOutput | None = None
    module: torch.nn.Module | None = None
    write_source: Callable[[Path], None] | None = None
    engine: str = "onnxruntime"
    model: str = "model.onnx"
