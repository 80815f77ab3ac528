"""Where settings come from: `server.toml`, the environment, flags; the later ones win.

All three are read against the one declaration in `settings`, and each value keeps its origin.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from . import versions
from .errors import SettingsError
from .settings import PREFIX, TABLES, Settings, commented, tables, toml
from .sizing import Sizing

T = TypeVar("T", bound=msgspec.Struct)

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and by name where each one comes from: `default`, a file, a variable, a flag."""

    settings: Settings
    origins: dict[str, str]

    def to_toml(self) -> str:
        """The settings as a `server.toml` that says the same, each with its origin."""
        lines = []
        for name in Settings.__struct_fields__:
            value = getattr(self.settings, name)
            if name in TABLES:
                continue
            # TOML has no word for nothing.
            line = f"# {name} is not set" if value is None else f"{name} = {toml(value)}"
            lines.append(commented(line, self.origins[name]))
        return "\n".join(lines + tables(self.settings, self.origins)) + "\n"

    def to_builtins(self) -> dict[str, dict[str, Any]]:
        """By name the value, as JSON has it, and the origin."""
        values = msgspec.to_builtins(self.settings)
        return {name: {"value": values[name], "origin": self.origins[name]} for name in values}


def resolve(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str] | None = None
) -> Configuration:
    """Read `path`, where there is one, then MLSERVE_* of `environ`, then `flags`, by name.

    What is empty in the environment counts as not set. Raises `SettingsError` naming the setting,
    its value and what is allowed.
    """
    values = {} if path is None else _read(path)
    where = f"'{path}'"
    _check_names(values, Settings, where)
    sizing = values.get("sizing", {})
    if not isinstance(sizing, dict):
        raise SettingsError(f"{where}: sizing is {sizing!r}, and it must be tables by model name.")
    for model, table in sizing.items():
        here = f'{where}: [sizing."{model}"]'
        if not isinstance(table, dict):
            raise SettingsError(f"{here} is {table!r}, and it must be a table.")
        _check_names(table, Sizing, here)
        _convert(table, Sizing, here)
    settings = _convert(values, Settings, where)
    versions.check(settings.versions)
    origins = dict.fromkeys(Settings.__struct_fields__, DEFAULT) | dict.fromkeys(values, str(path))
    for name in Settings.__struct_fields__:
        variable = PREFIX + name.upper()
        text = environ.get(variable, "").strip()
        if not text or (variable == _PORT and _LINK.match(text)):
            continue
        if name in TABLES:
            raise SettingsError(
                f"{variable} is set, and {name} is a table, which stands in server.toml alone.",
                hint=f"unset {variable}",
            )
        settings = _with(settings, name, text, "the environment", variable)
        origins[name] = variable
    for name, text in (flags or {}).items():
        settings = _with(settings, name, text, "the command line", flag(name))
        origins[name] = flag(name)
    return Configuration(settings, origins)


def flag(name: str) -> str:
    """How a setting is written on the command line: `--max-body-mb`."""
    return "--" + name.replace("_", "-")


_PORT = PREFIX + "PORT"
_LINK = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes sets MLSERVE_PORT to such an address where a Service is called mlserve."""


def _with(settings: Settings, name: str, text: str, where: str, shown: str) -> Settings:
    """`settings` with one more, from what was written outside of a file."""
    value: Any = text
    if isinstance(kind_of(Settings, name), inspect.VarTupleType):
        value = [part for part in (part.strip() for part in text.split(",")) if part]
    change = _convert({name: value}, Settings, where, shown=shown, given=text)
    return msgspec.structs.replace(settings, **{name: getattr(change, name)})


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise SettingsError(
            f"'{path}' does not exist.", hint="'mlserve emit PKG -o DIR' writes one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"'{path}' is no TOML: {error}.") from error
    except OSError as error:
        raise SettingsError(f"'{path}' cannot be read: {error.strerror}.") from error


def _check_names(values: Mapping[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    import difflib

    known = kind.__struct_fields__
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(
                f"{where} sets '{name}', which is no setting.",
                hint=f"did you mean '{near[0]}'?" if near else f"it can be {', '.join(known)}",
            )


def _convert(
    values: Mapping[str, Any],
    kind: type[T],
    where: str,
    *,
    shown: str | None = None,
    given: str | None = None,
) -> T:
    """The values as a `kind`. `shown`, `given`: the name and the text of one that is all text."""
    try:
        return msgspec.convert(dict(values), kind, strict=shown is None)
    except msgspec.ValidationError as error:
        name = re.split(r"[.\[`]", str(error).partition(" - at `$.")[2])[0]
        value = values.get(name) if given is None else given
        raise SettingsError(
            f"{where}: {shown or name} is {value!r}, and it must be {_allowed(kind, name)}."
        ) from error


def kind_of(kind: type[msgspec.Struct], name: str) -> inspect.Type:
    """The type of a field, without its description, and without the choice of nothing."""
    types = {field.name: field.type for field in inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    found = _plain(types[name])
    if isinstance(found, inspect.UnionType):
        found = next(
            each for each in map(_plain, found.types) if type(each) is not inspect.NoneType
        )
    return found


def _plain(found: inspect.Type) -> inspect.Type:
    return found.type if isinstance(found, inspect.Metadata) else found


def _allowed(kind: type[msgspec.Struct], name: str) -> str:
    """What a field may be, in words."""
    match kind_of(kind, name):
        case inspect.IntType(ge=low, le=high):
            return _between("a whole number", low, high)
        case inspect.FloatType(gt=above, ge=low, le=high):
            if above is None:
                return _between("a number", low, high)
            most = "" if high is None else f", at most {high}"
            return f"a number above {above}{most}"
        case inspect.LiteralType(values=values):
            return " or ".join(sorted(map(repr, values)))
        case inspect.VarTupleType(item_type=inspect.LiteralType(values=values)):
            return f"a list of {' or '.join(sorted(map(repr, values)))}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(pattern=str(pattern)):
            return f"text that matches {pattern}"
        case inspect.StrType(min_length=int()):
            return "text that is not empty"
        case inspect.DictType():
            return "a table by model name"
        case _:
            return "text"


def _between(what: str, low: float | None, high: float | None) -> str:
    return f"{what} from {low} to {high}" if high is not None else f"{what} of at least {low}"
