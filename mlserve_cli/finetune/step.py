"""`mlserve train`: a package's network learns on, from its `source/` alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlserve_cli.errors import needs_extra
from mlserve_cli.graph import successor
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.training import source, validation
from mlserve_cli.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import GENTLER, TrainingOptions
from mlserve_cli.training.variant import prefixed

LIBRARIES = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """Goes on training the network of a package with training() and loss() of its definition.

    epochs: by default those of TRAINING. learning_rate: by default a fifth of TRAINING's, as the
    weights are worth keeping. precision, ema, patience: replace those of TRAINING.
    checkpoints: where an interrupted training can go on.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    precision: str | None = None
    ema: float | None = None
    patience: int | None = None
    seed: int = 0
    checkpoints: Checkpoints = NO_CHECKPOINTS
    name: str = "train"

    def requires(self, parent: Package) -> None:
        """Refuse a package that cannot be trained, and options out of range."""
        source.require_module(parent, "training")
        TrainingOptions.check(self._changes())

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Train, and write the network with what further training needs."""
        with needs_extra("torch", "train"):
            import torch  # noqa: F401  (a sentence now, not an ImportError later)
        progress.stage("reading the network")
        before = source.load(parent)
        definition, names = before.definition, before.input_names
        full = TrainingOptions.of(definition)
        options = TrainingOptions.of(
            definition, **{"learning_rate": full.peak / GENTLER} | self._changes()
        )
        given, rows = validation.choose(
            definition,
            names,
            options,
            batches=batches(definition, names),
            outputs=[spec.name for spec in parent.manifest.outputs],
        )
        history = train(
            before.module,
            given,
            options=options,
            loss=task_loss(definition, options),
            seed=self.seed,
            progress=progress,
            validation=rows,
            keeper=self.checkpoints.stage("train"),
        )
        progress.stage("writing the trained model")
        successor.write(before.module, parent, draft.serve / parent.manifest.model)
        source.write(
            draft.source, definition, before.module, entry=before.entry, history=before.history
        )
        return Change(
            variant=prefixed("trained", parent.manifest.variant),
            parameters={
                "epochs": options.epochs,
                "learning_rate": options.peak,
                **{key: value for key, value in self._changes().items() if key not in _ALWAYS},
                **history.lineage(),
            },
            seed=self.seed,
            libraries=LIBRARIES,
            evidence=(history.facts(),),
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """ONNX answers as the rebuilt torch module does."""
        rebuilt = source.load(Package(draft.path, manifest)).module
        successor.check(rebuilt, parent, draft, manifest)

    def _changes(self) -> dict[str, Any]:
        """What was asked for beside TRAINING."""
        asked = {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "precision": self.precision,
            "ema": self.ema,
            "patience": self.patience,
        }
        return {name: value for name, value in asked.items() if value is not None}


_ALWAYS = ("epochs", "learning_rate")
