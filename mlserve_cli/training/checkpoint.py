"""Checkpoints: a training that was killed goes on where it was, and ends with the same weights.

    OUTPUT.training/
      fine-tuning.safetensors     one file a training of the command: tensors, and in the file's
                                  metadata the facts, as JSON, with a digest of both
      share-of-macs.json          what was measured and decides a training

A file is written beside its place and renamed, so that a kill leaves the one before. A training
that has ended leaves its final weights: a command of several trainings takes those up, too. The
folder goes when the command is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package.definition import Metric
from mlserve_cli.package.progress import Progress
from mlserve_cli.training.curve import Epoch, History
from mlserve_cli.training.state import Saved, State

if TYPE_CHECKING:
    import torch

SUFFIX = ".training"

SECONDS = 60.0
"""Between two checkpoints: a kill costs at most a minute, and writing 100 MB takes 0.1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where the trainings of a command keep what they have; without a folder nowhere.

    resume: take up what is there. steps: a checkpoint every so many steps; else every `seconds`.
    replaced: files of an earlier training, which go when the first file of this one is there.
    """

    folder: Path | None = None
    resume: bool = False
    seconds: float = SECONDS
    steps: int | None = None
    replaced: list[Path] = field(default_factory=list)

    @classmethod
    def beside(cls, output: Path, *, resume: bool = False, force: bool = False) -> Checkpoints:
        """In OUTPUT.training. What lies there is taken up by `resume`, replaced by `force`.

        Nothing is removed before this training has something of its own to keep: a command that
        was mistyped costs no hours. Raises `StepError` where neither is asked for and an unfinished
        training is there.
        """
        folder = output.with_name(output.name + SUFFIX)
        if any(folder.glob("*.safetensors")) and not resume and not force:
            raise StepError(
                f"'{folder}' holds a training that was not finished.",
                hint="--resume goes on with it, --force begins anew",
            )
        old = [] if resume else [path for path in folder.glob("*") if path.is_file()]
        return cls(folder=folder, resume=resume, replaced=old)

    def replace(self, draft: Path, path: Path) -> None:
        """Give a written file its name; what it takes the place of goes."""
        draft.replace(path)
        while self.replaced:
            old = self.replaced.pop()
            if old not in (path, draft):
                old.unlink(missing_ok=True)

    def stage(self, name: str, **about: Any) -> Keeper:
        """For one training of the command, by a name that no other has ("fine-tuning").

        about: what decides the training beside its weights, options and seed, as JSON; a
        checkpoint of another training is refused.
        """
        path = self.folder / f"{name}.safetensors" if self.folder else None
        return Keeper(self, path, about)

    def measured(self, name: str, measure: Callable[[], float], **about: Any) -> float:
        """A number that decides a training and would be another one if it were measured again.

        about: what it is the answer to, as JSON. Kept as NAME.json, and taken up by `resume`.
        """
        path = self.folder / f"{name}.json" if self.folder else None
        asked = json.loads(json.dumps(about, default=str))
        if path is not None and self.resume:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(path.read_text(encoding="utf-8"))
                if kept["about"] == asked:
                    return float(kept["value"])
        value = measure()
        if path is not None:
            with contextlib.suppress(OSError):  # of a full disk the first checkpoint tells
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(path.name + ".part")
                draft.write_text(json.dumps({"value": value, "about": asked}), encoding="utf-8")
                self.replace(draft, path)
        return value

    def discard(self) -> None:
        """Remove the folder: the command has what it wanted."""
        if self.folder and self.folder.is_dir():
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(slots=True)
class Keeper:
    """The checkpoint of one training."""

    checkpoints: Checkpoints
    path: Path | None
    about: Mapping[str, Any]
    _identity: dict[str, Any] = field(default_factory=dict)
    _last_seconds: float = field(default_factory=time.monotonic)
    _last_step: int = 0
    _warned: bool = False

    def read(self, identity: dict[str, Any]) -> Saved | None:
        """What there is to go on from, if it should be taken up.

        Raises `StepError` when it is of another training, or damaged.
        """
        self._identity = json.loads(json.dumps({**self.about, **identity}, default=str))
        if self.path is None or not self.checkpoints.resume or not self.path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said.get("digest") != _digest(said["facts"], tensors):
                raise ValueError("what it holds is not what was written")
            facts = json.loads(said["facts"])
            before = dict(facts["identity"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StepError(
                f"the checkpoint '{self.path}' cannot be read: {first_line(error)}.",
                hint="--force begins anew",
            ) from error
        for name, value in self._identity.items():
            if before.get(name) != value:
                raise StepError(
                    f"'{self.path}' is of another training: {name} was "
                    f"{_short(before.get(name))}, and is {_short(value)}.",
                    hint="ask for the same as before, or begin anew with --force",
                )
        self._last_step = facts.get("steps", 0)
        return Saved(tensors, facts)

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint after that many steps."""
        if self.path is None:
            return False
        if self.checkpoints.steps is not None:
            return step - self._last_step >= self.checkpoints.steps
        return time.monotonic() - self._last_seconds >= self.checkpoints.seconds

    def write(self, state: State, progress: Progress, *, seconds: float) -> bool:
        """Write down where the training is. Where the disk has no room, the one before stays."""
        self._last_step, self._last_seconds = state.steps, time.monotonic()
        if self.path is None:
            return False
        saved = state.save()
        return self._put(saved.tensors, saved.facts | {"seconds": seconds}, progress)

    def finish(self, module: torch.nn.Module, history: History, progress: Progress) -> None:
        """Write down what the training ended with."""
        if self.path is not None:
            tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
            self._put(tensors, {"history": _facts(history)}, progress)

    def _put(
        self, tensors: dict[str, torch.Tensor], facts: dict[str, Any], progress: Progress
    ) -> bool:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if self.path is None:
            return False
        draft = self.path.with_name(self.path.name + ".part")
        # Copies: what is shared or in another memory layout cannot be written.
        own = {
            name: tensor.detach().cpu().clone(memory_format=_contiguous())
            for name, tensor in tensors.items()
        }
        text = json.dumps(facts | {"identity": self._identity})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(own, draft, metadata={"facts": text, "digest": _digest(text, own)})
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            self.checkpoints.replace(draft, self.path)
            _flush_folder(self.path.parent)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            if not self._warned:
                kept = "the one before is kept, and " if self.path.is_file() else ""
                progress.say(
                    f"the checkpoint '{self.path}' cannot be written ({first_line(error)}); "
                    f"{kept}training goes on"
                )
            self._warned = True
            return False
        self._warned = False
        return True


NO_CHECKPOINTS = Checkpoints()
"""Nothing is kept, and nothing can be resumed."""

NOWHERE = NO_CHECKPOINTS.stage("nowhere")


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over the state dict: the same for the same weights, whatever led to them."""
    return _digest("", module.state_dict())


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over both: a file in which a bit has flipped still is a file of tensors."""
    import torch

    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()


def finished(saved: Saved, module: torch.nn.Module) -> History | None:
    """The history of a training that had ended, its weights put into `module`; else None."""
    facts = saved.facts.get("history")
    if facts is None:
        return None
    module.load_state_dict(
        {name.removeprefix("module/"): tensor for name, tensor in saved.tensors.items()}
    )
    module.eval()
    return History(
        **facts
        | {
            "epochs": tuple(msgspec.convert(facts["epochs"], list[Epoch])),
            "metric": msgspec.convert(facts["metric"], Metric) if facts["metric"] else None,
            "resumed": tuple(facts["resumed"]),
        }
    )


def _facts(history: History) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(history)
    return facts


def _short(value: Any) -> str:
    """A digest by its beginning; anything else as it is."""
    text = str(value)
    return text if len(text) < 64 else text[:19] + "…"


def _contiguous() -> Any:
    import torch

    return torch.contiguous_format


def _flush_folder(folder: Path) -> None:
    """Bring a rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
