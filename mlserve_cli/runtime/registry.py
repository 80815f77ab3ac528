"""What is loaded: model versions that take traffic, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .batcher import Batcher
from .engines import Engine
from .errors import NotFound
from .manifest import Manifest
from .monitoring.metrics import ModelMetrics
from .processing import Processor
from .repository import order
from .sizing import Sizing

if TYPE_CHECKING:
    from .shadow import Shadow


@dataclass(slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """One version of a model that was loaded, warmed up and proven.

    Whoever answers a request holds it until the answer is on its way; one that was replaced is
    freed when nobody holds it any more. shadows: where copies of its requests go.
    """

    manifest: Manifest
    path: Path
    processor: Processor
    sizing: Sizing
    batcher: Batcher
    metrics: ModelMetrics
    engines: tuple[Engine, ...] = ()
    ready: bool = True
    shadows: tuple[Shadow, ...] = ()


class Registry:
    """The versions of each model; the newest answers where a request names none."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, LoadedModel]] = {}
        self._latest: dict[str, LoadedModel] = {}

    def add(self, model: LoadedModel) -> LoadedModel | None:
        """Let a model take traffic → the one whose place it took, if there was one."""
        name, version = model.manifest.name, model.manifest.version
        versions = self._models.setdefault(name, {})
        replaced = versions.get(version)
        versions[version] = model
        self._latest[name] = _newest(versions)
        return replaced

    def remove(self, name: str, version: str) -> LoadedModel:
        """Take a version out of the traffic. Raises `NotFound`."""
        model = self.get(name, version)
        versions = self._models[name]
        del versions[version]
        if versions:
            self._latest[name] = _newest(versions)
        else:
            del self._models[name], self._latest[name]
        return model

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The model of that name, its newest version or the one named. Raises `NotFound`."""
        found = self._latest.get(name) if version is None else self.find(name, version)
        if found is None:
            raise self._unknown(name, version)
        return found

    def find(self, name: str, version: str) -> LoadedModel | None:
        """That very version, if it is loaded."""
        versions = self._models.get(name)
        return None if versions is None else versions.get(version)

    def models(self) -> list[LoadedModel]:
        """All of them, by name and version."""
        return [
            model
            for name in sorted(self._models)
            for model in sorted(self._models[name].values(), key=lambda item: order(item.manifest))
        ]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, oldest first; none where it is unknown."""
        versions = self._models.get(name, {}).values()
        return [
            model.manifest.version
            for model in sorted(versions, key=lambda item: order(item.manifest))
        ]

    def ready(self, name: str, version: str | None = None) -> bool:
        """Whether a prediction of that model would succeed."""
        try:
            return self.get(name, version).ready
        except NotFound:
            return False

    def clear(self) -> None:
        """Forget everything; nothing takes traffic any more."""
        self._models.clear()
        self._latest.clear()

    def _unknown(self, name: str, version: str | None) -> NotFound:
        if version is not None and name in self._models:
            return NotFound(
                f"Request for unknown model: '{name}' version {version} is not found",
                hint=f"its versions are {', '.join(self.versions(name))}",
            )
        names = ", ".join(sorted(self._models)) or "none"
        return NotFound(
            f"Request for unknown model: '{name}' is not found", hint=f"the models are {names}"
        )


def _newest(versions: dict[str, LoadedModel]) -> LoadedModel:
    return max(versions.values(), key=lambda item: order(item.manifest))
