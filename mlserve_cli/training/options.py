"""TRAINING of a definition: how the loop trains, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package.definition import Definition

LEARNING_RATE = {"sgd": 0.05, "adamw": 1e-3}
"""At the peak of the schedule; what small networks with batch normalization train well with."""

GENTLER = 5.0
"""Training on from weights worth keeping begins at a fifth of the rate that they were made with."""


class TrainingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TRAINING may hold.

    epochs: times that training() is gone through. learning_rate: at the peak, after the warm-up.
    momentum: of SGD; AdamW keeps its own. weight_decay: on weights, never on biases and norms.
    label_smoothing: share of the target spread over all classes (cross-entropy only).
    warmup: share of all steps in which the learning rate rises to its peak.
    clip: largest norm of all gradients together; 0 leaves them as they are.
    precision: "auto" takes bf16 autocast on CPUs with AMX, GPUs with bf16 in hardware, and, for
    networks without convolutions, CPUs with AVX-512 BF16.
    ema: decay of the moving average of the weights, which takes the place of the last step's own;
    0 keeps none. 0.99 to 0.9999 are usual, the more steps the higher.
    patience: how many epochs in a row may be no better on the validation rows; then training ends,
    and the weights of the best epoch are kept. Without it the last epoch's are.
    batch_size: for training() itself to read; the loop takes the batches that it yields.
    """

    epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 5
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 5e-4
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    clip: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    patience: Annotated[int, msgspec.Meta(ge=1)] | None = None
    batch_size: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @classmethod
    def of(cls, definition: Definition, **changes: Any) -> TrainingOptions:
        """TRAINING of the definition; changes that are not None replace its values.

        Raises `DefinitionError` that names the key, the value and what is allowed, and
        `StepError` as `check` does.
        """
        given = definition.value("TRAINING", {})
        if not isinstance(given, dict):
            raise DefinitionError(
                f"TRAINING of '{definition.path}' is {type(given).__name__}, not a dict.",
                hint='for example TRAINING = {"epochs": 5, "learning_rate": 0.05}',
            )
        changed = cls.check(changes)
        try:
            return msgspec.convert(given | changed, cls)
        except msgspec.ValidationError as error:
            raise DefinitionError(
                f"TRAINING of '{definition.path}' is wrong: {error}.",
                hint=f"it may hold {', '.join(cls.__struct_fields__)}",
            ) from error

    @classmethod
    def check(cls, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The changes that are not None. Raises `StepError` for one that is out of range."""
        changed = {name: value for name, value in changes.items() if value is not None}
        for name, value in changed.items():
            try:
                msgspec.convert({name: value}, cls)
            except msgspec.ValidationError as error:
                allowed = str(error).partition(" - at")[0].replace("`", "")
                raise StepError(
                    f"{name} cannot be {value}: {allowed[0].lower()}{allowed[1:]}.",
                    hint="without it, it is as TRAINING of the definition says",
                ) from error
        return changed

    @property
    def peak(self) -> float:
        """The learning rate at the peak of the schedule."""
        return self.learning_rate or LEARNING_RATE[self.optimizer]
