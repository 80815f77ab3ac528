"""What a source is exported for: the engine that will run it, and the file that this one takes."""

from __future__ import annotations

from dataclasses import dataclass

from mlserve_cli.errors import EngineError, StepError
from mlserve_cli.runtime import engines

COMPILED = "torch-aoti"
"""The engine torch, with a model that AOTInductor compiled for the machine."""

_FILES = {
    "onnxruntime": "model.onnx",
    "openvino": "model.onnx",
    "torch": "model.pt2",
}


@dataclass(frozen=True, slots=True)
class Goal:
    """An engine by the name of `--engine`, and the device that a model is compiled for.

    fuse: whether attention may become an operator that ONNX Runtime alone has.
    """

    name: str = "onnxruntime"
    device: str = "cpu"
    fuse: bool = False

    @classmethod
    def named(cls, name: str | None, device: str = "cpu", *, fuse: bool = False) -> Goal:
        """The goal that was asked for; onnxruntime without a name. Raises `EngineError`."""
        name = name or "onnxruntime"
        if name not in (*_FILES, COMPILED) and ":" not in name:
            raise EngineError(
                f"'{name}' is no engine.",
                hint=f"it can be {', '.join((*_FILES, COMPILED))}, or your own "
                "'package.module:Class'",
            )
        if ":" in name:
            engines.find(name)  # now, not after minutes of export
        if device != "cpu" and name != COMPILED:
            raise EngineError(
                f"a model for the engine '{name}' is not made for one device.",
                hint="leave --device out: the server chooses among those of its machine",
            )
        if device not in ("cpu", "cuda"):
            raise EngineError(f"'{device}' is no device.", hint="it can be cpu or cuda")
        if fuse and name != "onnxruntime":
            raise EngineError(
                f"the engine '{name}' has no operator for fused attention.",
                hint="leave --fuse out, or --engine: ONNX Runtime has it",
            )
        return cls(name, device, fuse)

    @property
    def engine(self) -> str:
        """What the manifest says."""
        return "torch" if self.compiled else self.name

    @property
    def compiled(self) -> bool:
        """Whether the model is compiled for this machine."""
        return self.name == COMPILED

    @property
    def own(self) -> bool:
        """Whether the engine is the user's own, which takes any file."""
        return ":" in self.name

    @property
    def file(self) -> str:
        """What the model's file is called in the package."""
        return "model.onnx" if self.own else _FILES[self.engine]

    @property
    def torch(self) -> bool:
        """Whether it takes a `.pt2` file."""
        return self.engine == "torch"

    def check_onnx(self, what: str) -> None:
        """Refuse a source that can only be ONNX. Raises `StepError`."""
        if self.torch:
            raise StepError(
                f"the engine '{self.name}' runs PyTorch models, and this is {what}.",
                hint="leave --engine out: ONNX Runtime runs it",
            )
