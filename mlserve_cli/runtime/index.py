"""The repository index: every version that is loaded, on its way in or out, or on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from .manifest import Manifest
from .registry import LoadedModel
from .repository import Look, order_of
from .retirement import Key

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class ModelStatus(msgspec.Struct, frozen=True):
    """One version of a model, as the index tells of it."""

    name: str
    version: str
    state: State
    reason: str = ""


def key_of(manifest: Manifest) -> Key:
    """Under which a version is known."""
    return manifest.name, manifest.version


def index(
    look: Look,
    models: Iterable[LoadedModel],
    *,
    failed: Mapping[Key, str],
    unloaded: Collection[Key],
    loading: Collection[Key],
    leaving: Collection[Key],
) -> list[ModelStatus]:
    """By name and version. What is known of a version later in these arguments counts for more,
    but a model that answers is there whatever else is going on.

    look: what is on disk. failed: why a load did not go well. unloaded: by hand. leaving: those
    that are drained.
    """
    states: dict[Key, tuple[State, str]] = {}
    for broken in look.broken:
        states[broken.name, broken.version] = ("UNAVAILABLE", broken.reason)
    for found in look.found:
        states[key_of(found.manifest)] = ("UNAVAILABLE", "not loaded")
    for key, reason in failed.items():
        states[key] = ("UNAVAILABLE", reason)
    for key in unloaded:
        if key in states:
            states[key] = ("UNAVAILABLE", "unloaded")
    for key in leaving:
        states[key] = ("UNLOADING", "")
    for key in loading:
        states[key] = ("LOADING", "")
    for model in models:
        key = key_of(model.manifest)
        reason = failed.get(key, "")  # of loading it anew; this one stayed
        states[key] = ("READY", reason) if model.ready else ("UNAVAILABLE", "not ready")
    return [
        ModelStatus(name, version, *states[name, version])
        for name, version in sorted(states, key=lambda key: (key[0], order_of(key[1])))
    ]
