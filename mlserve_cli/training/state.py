"""A training in progress: all that decides its next step, and so all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli.errors import StepError
from mlserve_cli.training import randomness, schedule
from mlserve_cli.training.curve import Epoch
from mlserve_cli.training.divergence import CUDA_STEPS, Losses
from mlserve_cli.training.early_stopping import Best
from mlserve_cli.training.ema import Average, snapshot
from mlserve_cli.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds: tensors by name, and facts that JSON can write."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class State:
    """The network with its optimizer, its averages, and its place in the epochs.

    epoch, step: the place: full epochs behind it, and steps of the current one. steps: all steps.
    per_epoch: the batches of an epoch. first: the digest of the current epoch's first batch.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        options: TrainingOptions,
        *,
        device: str,
        per_epoch: int,
        higher_is_better: bool = False,
    ) -> None:
        self.module = module
        self.options = options
        self.device = device
        self.per_epoch = per_epoch
        self.optimizer = schedule.optimizer(module, options)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = Average(module, options.ema) if options.ema else None
        self.best = Best(higher_is_better=higher_is_better, patience=options.patience)
        self._factor = schedule.cosine(self.total, options.warmup)
        self.losses = Losses(every=CUDA_STEPS if device == "cuda" else 1)
        self.curve: list[Epoch] = []
        self.epoch = self.step = self.steps = 0
        self.first = ""
        self.resumed: tuple[int, ...] = ()
        self.stopped = ""  # why it ended early, a sentence

    @property
    def total(self) -> int:
        """The steps of all epochs."""
        return self.per_epoch * self.options.epochs

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What the training would end with now: the average, where there is one."""
        return self.average.weights if self.average else snapshot(self.module)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.options.peak * self._factor(self.steps)

    def stepped(self, loss: torch.Tensor) -> None:
        """A step was taken. Raises `Diverged`."""
        self.step += 1
        self.steps += 1
        self.losses.add(loss)
        if self.average:
            self.average.update(self.module, self.steps)

    def end_epoch(self, mean: float, validation: float | None) -> None:
        """The epoch is over: a point of the curve; its weights may be the best."""
        rate = self.options.peak * self._factor(max(0, self.steps - 1))
        self.curve.append(Epoch(mean, rate, validation))
        self.epoch, self.step, self.first = self.epoch + 1, 0, ""
        self.best.take(mean if validation is None else validation, self.epoch, self.weights)
        if self.best.gave_up(self.epoch) and self.epoch < self.options.epochs:
            self.stopped = (
                f"stopped after epoch {self.epoch}: none was better since epoch "
                f"{self.best.epoch}, whose weights are kept"
            )

    @contextmanager
    def best_guess(self) -> Iterator[None]:
        """In this block the network has the weights that the training would end with now."""
        if self.average is None:
            yield
            return
        own = snapshot(self.module)
        self.module.load_state_dict(self.average.weights)
        yield
        self.module.load_state_dict(own)

    def choose_weights(self, *, best: bool) -> int:
        """Give the network the weights to end with; return their epoch, counted from 1."""
        if best and self.best.weights is not None:
            self.module.load_state_dict(self.best.weights)
            return self.best.epoch
        if self.average:
            self.module.load_state_dict(self.average.weights)
        return self.epoch

    def save(self) -> Saved:
        """All of it, while nothing draws from the random states."""
        self.losses.read()
        states = randomness.capture(cuda=self.device == "cuda")
        inner = self.optimizer.state_dict()["state"]
        tensors = {f"module/{name}": tensor for name, tensor in self.module.state_dict().items()}
        for kind, weights in self._averages().items():
            tensors |= {f"{kind}/{name}": tensor for name, tensor in weights.items()}
        for index, values in inner.items():
            tensors |= {f"optimizer/{index}/{key}": tensor for key, tensor in values.items()}
        tensors["random/cpu"] = states.cpu
        tensors |= {f"random/cuda/{place}": each for place, each in enumerate(states.cuda)}
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "steps": self.steps,
            "per_epoch": self.per_epoch,
            "first_batch": self.first,
            "losses": self.losses.values,
            "first_loss": self.losses.first,
            "curve": [msgspec.to_builtins(epoch) for epoch in self.curve],
            "best": [self.best.value, self.best.epoch],
            "resumed": list(self.resumed),
            "random": states.facts(),
        }
        return Saved(tensors, facts)

    def restore(self, saved: Saved) -> None:
        """Go on from a checkpoint; the random states too."""
        facts = saved.facts
        self.module.load_state_dict(_part(saved, "module"))
        if self.average:
            self.average.restore(_part(saved, "average"))
        self._restore_optimizer(_part(saved, "optimizer"))
        self.losses.values, self.losses.first = list(facts["losses"]), facts["first_loss"]
        self.curve = msgspec.convert(facts["curve"], list[Epoch])
        self.best.value, self.best.epoch = facts["best"]
        best = _part(saved, "best")
        if best:
            self.best.weights = {
                name: like(best[name], tensor) for name, tensor in self.module.state_dict().items()
            }
        self.epoch, self.step, self.steps = facts["epoch"], facts["step"], facts["steps"]
        self.first = facts["first_batch"]
        self.resumed = (*facts["resumed"], self.steps)
        cuda = tuple(_part(saved, "random/cuda").values())
        randomness.restore(randomness.States.of(facts["random"], saved.tensors["random/cpu"], cuda))

    def _averages(self) -> dict[str, dict[str, torch.Tensor]]:
        found = {"average": self.average.weights} if self.average else {}
        return found | ({"best": self.best.weights} if self.best.weights else {})

    def _restore_optimizer(self, part: dict[str, torch.Tensor]) -> None:
        """Momentum and the like, in the memory layout of the parameters that they belong to.

        Another layout would be summed up in another order, and so rounded otherwise.
        """
        inner: dict[int, dict[str, torch.Tensor]] = {}
        for path, tensor in part.items():
            index, _, key = path.partition("/")
            parameter = self.trained[int(index)]
            value = like(tensor, parameter) if tensor.shape == parameter.shape else tensor
            inner.setdefault(int(index), {})[key] = value
        try:
            self.optimizer.load_state_dict(
                {"state": inner, "param_groups": self.optimizer.state_dict()["param_groups"]}
            )
        except (ValueError, KeyError) as error:
            raise StepError(f"the checkpoint does not fit the optimizer: {error}.") from error


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A copy in the memory layout and on the device of `other`."""
    import torch

    return torch.empty_like(other, requires_grad=False).copy_(tensor)


def _part(saved: Saved, kind: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(kind + "/"): tensor
        for name, tensor in saved.tensors.items()
        if name.startswith(kind + "/")
    }
