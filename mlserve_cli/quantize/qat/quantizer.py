"""Quantization-aware training as one more quantizer: a float graph and rows in, an int8 one out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.graph.session import settings
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.quantize import leftover, saturation
from mlserve_cli.quantize.calibration.collection import collect
from mlserve_cli.quantize.choices import Choices
from mlserve_cli.quantize.qat import network
from mlserve_cli.quantize.quantizers.quantizer import Job, refuse
from mlserve_cli.quantize.selection import select
from mlserve_cli.training import source, validation
from mlserve_cli.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlserve_cli.quantize.static import Quantized

LEARNING_RATE = 1e-3
"""Of AdamW, whatever TRAINING says: what int8 spoils are channels far from alike, whose gradients
are as far apart, and AdamW's steps do not depend on their size. A depthwise network that static
int8 took from 93.2 to 68.8 % came back to 86.6 %, with SGD to 74.6 % at its best rate."""

TOLERANCE = 1e-3
"""Of torch's answers beside ONNX Runtime's, relative: another order of sums, no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QatQuantizer:
    """Trains the graph with its roundings, on training() and loss() of the definition.

    epochs: by default a quarter of TRAINING's. learning_rate: of AdamW, at its peak.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    checkpoints: Checkpoints = NO_CHECKPOINTS
    name: str = "qat"
    libraries: tuple[str, ...] = ("torch",)

    def requires(self, parent: Package, choices: Choices) -> None:
        """Refuse a package without training(), and choices that training replaces."""
        source.require_functions(parent, "training")
        refuse(
            self.name,
            [
                (choices.smooth, "does not smooth: training itself moves what is in the way"),
                (choices.bias_correction, "corrects no biases: training does"),
            ],
        )

    def quantize(self, job: Job) -> Quantized:
        """The int8 model, of the weights and ranges that training ended with."""
        from mlserve_cli.quantize import static

        with needs_extra("torch", "train with roundings"):
            import torch  # noqa: F401  (a sentence now, not an ImportError later)
        selection = select(job.prepared, job.choices.exclude)
        left = leftover.find(job.prepared, selection)
        job.progress.stage("finding the ranges to start from")
        collected = collect(
            job.prepared,
            selection.tensors,
            job.rows,
            job.folder,
            calibrator=job.choices.calibrator,
            percentile=job.choices.percentile,
            progress=job.progress,
        )
        module = network.build(
            job.prepared, selection, collected.ranges, reduce_range=job.choices.reduce_range
        )
        _check(module, job)
        definition = Definition.load(job.parent.source / source.DEFINITION)
        names = tuple(module.inputs)
        full = TrainingOptions.of(definition)
        options = TrainingOptions.of(
            definition,
            optimizer="adamw",
            epochs=-(-full.epochs // 4) if self.epochs is None else self.epochs,
            learning_rate=LEARNING_RATE if self.learning_rate is None else self.learning_rate,
            precision="fp32",  # bf16 has as few levels as int8: it would round the roundings
        )
        given, rows = validation.choose(
            definition,
            names,
            options,
            batches=batches(definition, names),
            outputs=[spec.name for spec in job.parent.manifest.outputs],
        )
        history = train(
            module,
            given,
            options=options,
            loss=task_loss(definition, options),
            seed=self.seed,
            progress=job.progress,
            title="training with roundings",
            validation=rows,
            keeper=self.checkpoints.stage("quantize"),
        )
        job.progress.stage("writing the int8 model")
        arrays, ranges = module.learned()
        written = static.write(
            _with(job.prepared, arrays),
            selection,
            {**collected.ranges, **ranges},
            job.choices,
        )
        return static.Quantized(
            model=written,
            collected=collected,
            saturation=tuple(saturation.analyse(written, job.rows, job.folder)),
            left=tuple(left),
            training=history,
            facts={
                "epochs": options.epochs,
                "learning_rate": options.peak,
                "seed": self.seed,
                **history.lineage(),
            },
        )


def _with(model: ModelProto, arrays: dict[str, Any]) -> ModelProto:
    """A copy of the graph with other values in these initializers."""
    import onnx
    from onnx import numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for item in changed.graph.initializer:
        if item.name in arrays:
            item.CopyFrom(numpy_helper.from_array(arrays[item.name], item.name))
    return changed


def _check(module: Any, job: Job) -> None:
    """Refuse to train a graph that torch computes otherwise than ONNX Runtime."""
    import onnxruntime as ort
    import torch

    rows = next(iter(job.rows.parts(8)))
    session = ort.InferenceSession(
        job.prepared.SerializeToString(), settings(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(module.outputs, rows)
    module.rounding = False
    with torch.inference_mode():
        found = module.eval()(*(torch.from_numpy(np.array(rows[name])) for name in module.inputs))
    module.rounding = True
    answers = [found] if len(module.outputs) == 1 else list(found.values())
    for name, left, right in zip(module.outputs, expected, answers, strict=True):
        gap = float(np.abs(left - right.numpy()).max(initial=0.0))
        scale = max(float(np.abs(left).max(initial=0.0)), 1e-6)
        if not gap <= TOLERANCE * scale:
            raise StepError(
                f"torch computes the output '{name}' otherwise than ONNX Runtime "
                f"(relative difference {gap / scale:.1e}).",
                hint="quantize it with --method static, which needs no training",
            )
