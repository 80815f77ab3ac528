"""`module:object` that is a torch module → a definition: the module as model(), the rest beside it.

`sample()`, LABELS, PROCESSING and whatever else a definition may hold are looked for in the Python
module that the object comes from.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mlserve_cli.package.definition import Definition


def is_torch(value: Any) -> bool:
    """Whether it is a torch module, without importing torch."""
    return "torch.nn.modules.module.Module" in {
        f"{each.__module__}.{each.__qualname__}" for each in type(value).__mro__
    }


def definition(source: str, value: Any) -> Definition:
    """The definition that `value`, which was imported as `source`, and its module make."""
    name, _, attribute = source.partition(":")
    module = sys.modules[name]
    beside = ModuleType(f"mlserve_imported_{name}")
    beside.__dict__.update(
        {key: each for key, each in vars(module).items() if not key.startswith("__")}
    )
    fallback = attribute.rpartition(".")[2]
    beside.__dict__.update(model=lambda: value, NAME=getattr(module, "NAME", fallback))
    beside.__dict__.pop("architecture", None)  # weights are for the very object that was named
    return Definition(Path(getattr(module, "__file__", None) or name), beside)
