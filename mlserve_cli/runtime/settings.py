"""The settings of a server: one declaration, read from `server.toml` and from the environment.

An environment variable `MLSERVE_<NAME>` wins over the file. The documentation is generated from
the descriptions here.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from .errors import SettingsError
from .sizing import Sizing

T = TypeVar("T", bound=msgspec.Struct)

PREFIX = "MLSERVE_"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set about a server."""

    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="The address to listen at. Others than loopback let the network in.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="The port to listen at; 0 takes a free one.")
    ] = 8000
    models: Annotated[
        str,
        Meta(
            min_length=1,
            description="A package, or a folder of packages; relative to server.toml.",
        ),
    ] = "models"
    max_body_mb: Annotated[
        float, Meta(gt=0, le=65536, description="The largest request body, in MiB, unpacked too.")
    ] = 64.0
    max_queue_rows: Annotated[
        int,
        Meta(ge=1, description="Rows that may wait for each model; more are answered 503."),
    ] = 1024
    processing_threads: Annotated[
        int, Meta(ge=1, le=256, description="Threads that decode pictures, text and rows.")
    ] = 2
    shutdown_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="After SIGTERM, seconds in which requests are still taken while /readyz "
            "already says no.",
        ),
    ] = 2.0
    shutdown_timeout_s: Annotated[
        float,
        Meta(
            gt=0, le=3600, description="After the grace, seconds that requests in flight may take."
        ),
    ] = 30.0
    log_format: Annotated[
        Literal["text", "json"], Meta(description="How lines are logged to stderr.")
    ] = "text"
    sizing: dict[str, Sizing] = {}  # by model name; a model without one is measured at start


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read `server.toml` (or take the defaults), then the environment.

    A variable that is empty counts as not set. Raises `SettingsError` naming the setting, its value
    and what is allowed.
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
        _convert(table, Sizing, here, strict=True)
    settings = _convert(values, Settings, where, strict=True)
    for field in msgspec.structs.fields(Settings):
        variable = PREFIX + field.name.upper()
        text = environ.get(variable, "").strip()
        if not text or field.name == "sizing" or (variable == _PORT and _LINK.match(text)):
            continue
        change = _convert({field.name: text}, Settings, "the environment", strict=False)
        value = getattr(change, field.name)
        settings = msgspec.structs.replace(settings, **{field.name: value})
    return settings


_PORT = PREFIX + "PORT"
_LINK = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes sets MLSERVE_PORT to such an address where a Service is called mlserve."""


def to_toml(settings: Settings) -> str:
    """The text of a `server.toml`, with what each setting means and why each number is as it is."""
    lines = [
        f"# What can be set about this server. An environment variable such as {PREFIX}PORT wins.",
        "",
    ]
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        if field.name == "sizing":
            continue
        description = (field.type.extra_json_schema or {}).get("description", "")
        lines.append(f"# {description}")
        lines.append(f"{field.name} = {_toml(getattr(settings, field.name))}")
    for name, sizing in settings.sizing.items():
        lines += ["", f"[sizing.{_toml(name)}]"]
        for field_name in sizing.__struct_fields__:
            if field_name == "reasons":
                continue
            reason = sizing.reasons.get(field_name, "")
            comment = "".join(c if c.isprintable() else " " for c in reason).strip()
            line = f"{field_name} = {_toml(getattr(sizing, field_name))}"
            lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


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


def _convert(values: Mapping[str, Any], kind: type[T], where: str, *, strict: bool) -> T:
    try:
        return msgspec.convert(dict(values), kind, strict=strict)
    except msgspec.ValidationError as error:
        name = re.split(r"[.\[`]", str(error).partition(" - at `$.")[2])[0]
        shown = name if strict else f"{PREFIX}{name.upper()}"
        raise SettingsError(
            f"{where}: {shown} is {values.get(name)!r}, and it must be {_allowed(kind, name)}."
        ) from error


def _allowed(kind: type[msgspec.Struct], name: str) -> str:
    """What a field may be, in words."""
    types = {field.name: field.type for field in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    match types[name]:
        case msgspec.inspect.Metadata(type=inner):
            found = inner
        case found:
            pass
    match found:
        case msgspec.inspect.IntType(ge=low, le=high):
            return _between("a whole number", low, high)
        case msgspec.inspect.FloatType(gt=above, ge=low, le=high):
            return (
                _between("a number", low, high)
                if above is None
                else f"a number above {above}, at most {high}"
            )
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(sorted(map(repr, values)))
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return f"text that matches {pattern}"
        case _:
            return "text"


def _between(what: str, low: float | None, high: float | None) -> str:
    return f"{what} from {low} to {high}" if high is not None else f"{what} of at least {low}"


def _toml(value: Any) -> str:
    # Of what JSON lets stand in a text, TOML forbids one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
