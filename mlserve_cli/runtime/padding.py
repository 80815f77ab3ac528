"""Requests of different shapes in one batch: filled up with zeros where that was proven harmless.

A text model takes sentences of any length. Those of a similar length share a batch, which is as
long as the longest of them; an answer that has a length of its own is cut back. A lone request is
not padded at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .batch import Key
from .manifest import Manifest
from .tensors import Tensors, TensorSpec

Axes = Mapping[str, tuple[tuple[int, str], ...]]
"""Tensor → its axes that may be filled up, each with the name of its dimension."""


class Padding:
    """How the batches of one model are filled up.

    inputs, outputs: the axes in question. largest: of a dimension that was tried; requests that
    are larger share a batch only with their like.
    """

    def __init__(self, inputs: Axes, outputs: Axes, *, largest: int) -> None:
        self._inputs = inputs
        self._outputs = {name: axes for name, axes in outputs.items() if axes}
        self._largest = largest

    @classmethod
    def of(cls, manifest: Manifest) -> Padding | None:
        """As the package proves it; None where it does not."""
        proof = manifest.padding
        if proof is None or not proof.harmless:
            return None
        dimensions = proof.dimensions
        return cls(
            axes(manifest.inputs, dimensions),
            axes(manifest.outputs, dimensions),
            largest=proof.largest,
        )

    def key(self, tensors: Tensors) -> Key:
        """What has to be the same for two requests to share a batch: shapes, roughly."""
        return tuple([(name, self._bucketed(name, array.shape)) for name, array in tensors.items()])

    def join(self, parts: Sequence[Tensors], rows: int) -> tuple[Tensors, int, int]:
        """All parts as one → the batch, its own elements, and the zeros that fill it up."""
        joined: Tensors = {}
        own = total = 0
        for name in parts[0]:
            arrays = [part[name] for part in parts]
            shapes = zip(*[array.shape[1:] for array in arrays], strict=True)
            batch = np.zeros((rows, *map(max, shapes)), arrays[0].dtype)
            start = 0
            for array in arrays:
                end = start + array.shape[0]
                batch[(slice(start, end), *map(slice, array.shape[1:]))] = array
                start = end
                own += array.size
            total += batch.size
            joined[name] = batch
        return joined, own, total - own

    def cut(self, parts: Sequence[Tensors], asked: Sequence[Tensors]) -> None:
        """Cut each part of the outputs back to the size of what was `asked`, in place."""
        if not self._outputs:
            return
        for part, inputs in zip(parts, asked, strict=True):
            sizes = {
                dimension: inputs[name].shape[axis]
                for name, here in self._inputs.items()
                for axis, dimension in here
            }
            for name, here in self._outputs.items():
                array = part[name]
                index = [slice(None)] * array.ndim
                for axis, dimension in here:
                    index[axis] = slice(sizes[dimension])
                part[name] = array[tuple(index)]

    def _bucketed(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        rough = list(shape)
        for axis, _ in self._inputs.get(name, ()):
            if rough[axis] <= self._largest:
                rough[axis] = -bucket(rough[axis])  # apart from sizes that are meant exactly
        return tuple(rough[1:])


def axes(specs: Sequence[TensorSpec], dimensions: Sequence[str]) -> Axes:
    """Where those dimensions stand in each tensor."""
    return {
        spec.name: tuple(
            (axis, size)
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str) and axis and size in dimensions
        )
        for spec in specs
    }


def bucket(size: int) -> int:
    """The size that those who share a batch have at most: 8, 12, 16, 24, 32, 48, 64, 96, 128 …

    Steps of half a power of two: a third of a batch is padding at worst, but for the shortest.
    """
    if size <= 8:
        return 8
    power = 1 << (size - 1).bit_length()
    return power * 3 // 4 if size <= power * 3 // 4 else power
