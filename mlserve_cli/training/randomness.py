"""The random states that torch, NumPy and Python draw from: seeded, kept, put back.

All three are global, one a process. A definition draws from them in training(), and a network in
its dropout; both must find the states that the seed asks for, whatever ran between.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class States:
    """The states of all generators at one moment.

    cpu: torch's, (n,) uint8. cuda: one such tensor a GPU. numpy, python: what their own functions
    give.
    """

    cpu: torch.Tensor
    numpy: Any
    python: Any
    cuda: tuple[torch.Tensor, ...] = ()

    def facts(self) -> dict[str, Any]:
        """The states of NumPy and Python as JSON; those of torch are tensors."""
        name, keys, *rest = self.numpy
        version, words, gauss = self.python
        return {
            "numpy": [name, keys.tolist(), *rest],
            "python": [version, list(words), gauss],
        }

    @classmethod
    def of(
        cls, facts: dict[str, Any], cpu: torch.Tensor, cuda: tuple[torch.Tensor, ...] = ()
    ) -> States:
        """What `facts` and the tensors were made from."""
        name, keys, *rest = facts["numpy"]
        version, words, gauss = facts["python"]
        return cls(
            cpu, (name, np.array(keys, np.uint32), *rest), (version, tuple(words), gauss), cuda
        )


def seed(*numbers: int, cuda: bool = False) -> None:
    """Seed all generators, those of the GPUs only if `cuda`; (1, 2) seeds otherwise than (2, 1)."""
    import torch

    words = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(3)
    first, second, third = (int(word) for word in words)
    torch.default_generator.manual_seed(first)
    np.random.seed(second)
    random.seed(third)
    if cuda:
        torch.cuda.manual_seed_all(first)


def capture(*, cuda: bool = False) -> States:
    """The states of now; `cuda`: also those of the GPUs."""
    import torch

    return States(
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
        tuple(torch.cuda.get_rng_state_all()) if cuda else (),
    )


def restore(states: States) -> None:
    """Go on from `states`."""
    import torch

    torch.set_rng_state(states.cpu)
    np.random.set_state(states.numpy)
    random.setstate(states.python)
    if states.cuda:
        torch.cuda.set_rng_state_all(list(states.cuda))


@contextmanager
def apart() -> Iterator[None]:
    """What is drawn in this block is not missing after it."""
    before = capture()
    try:
        yield
    finally:
        restore(before)
