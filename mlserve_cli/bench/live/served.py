"""What a server serves, as far as it says so: which model, under which protocol, its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mlserve_cli.errors import MlserveError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import DATATYPES, TensorSpec

Protocol = Literal["oip-json", "oip-binary", "oip-grpc", "tensorflow", "torchserve", "predict"]

PROTOCOLS: dict[Protocol, str] = {
    "oip-binary": "Open Inference Protocol over REST, tensors as bytes (what tritonclient sends)",
    "oip-json": "Open Inference Protocol over REST, tensors as JSON",
    "oip-grpc": "Open Inference Protocol over gRPC",
    "tensorflow": "TensorFlow Serving's REST API",
    "torchserve": "TorchServe's inference API",
    "predict": "mlserve's plain predict",
}

PAYLOADS: frozenset[Protocol] = frozenset({"torchserve", "predict"})
"""Those that take what the model's own processing takes: a file, a text, rows as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The tensors of a model, as its server describes them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def has_batch(self) -> bool:
        """Whether a request may hold any number of rows."""
        return bool(self.inputs) and all(spec.has_batch for spec in self.inputs)

    def manifest(self, name: str) -> Manifest:
        """As readers of data files want it."""
        return Manifest(
            name=name, version="1", variant="served", inputs=self.inputs, outputs=self.outputs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model of a server, and how it is asked.

    signature: None where the protocol tells none. ours: it is a server of mlserve's own make.
    """

    protocol: Protocol
    model: str
    version: str | None = None
    signature: Signature | None = None
    ours: bool = False

    @property
    def path(self) -> str:
        """Where a request is posted."""
        from urllib.parse import quote

        name = quote(self.model, safe="")
        version = quote(self.version, safe="") if self.version else None
        match self.protocol:
            case "tensorflow":
                middle = f"/versions/{version}" if version else ""
                return f"/v1/models/{name}{middle}:predict"
            case "torchserve":
                return f"/predictions/{name}" + (f"/{version}" if version else "")
            case "predict":
                return f"/predict/{name}" + (f"/{version}" if version else "")
            case _:
                middle = f"/versions/{version}" if version else ""
                return f"/v2/models/{name}{middle}/infer"


def spec(name: Any, datatype: Any, shape: Any) -> TensorSpec:
    """A tensor as servers describe it, −1 where a size is open. Raises `MlserveError`."""
    if datatype not in DATATYPES:
        raise MlserveError(
            f"the server's tensor '{name}' is {datatype}, which cannot be sent from here.",
            hint=f"the datatypes are {', '.join(DATATYPES)}",
        )
    try:
        sizes = [int(size) for size in shape]
    except (TypeError, ValueError):
        raise MlserveError(f"the server's tensor '{name}' has the shape {shape!r}.") from None
    names = (
        size if size >= 0 else "batch" if axis == 0 else f"{name}.{axis}"
        for axis, size in enumerate(sizes)
    )
    return TensorSpec(str(name), datatype, tuple(names))
