"""The settings of a server: one declaration, read from `server.toml` and from the environment.

An environment variable `MLSERVE_<NAME>` wins over the file. The documentation is generated from
the descriptions here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .sizing import Sizing

TABLES = ("versions", "sizing")
"""Settings by model name; they stand in the file alone."""

PREFIX = "MLSERVE_"

FILE = "server.toml"


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
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="From which level on lines are logged."),
    ] = "info"
    access_log: Annotated[
        Literal["off", "failures", "all"],
        Meta(description="Which requests get a line: none, those answered 500, or all."),
    ] = "failures"
    server_timing: Annotated[
        bool,
        Meta(description="Whether answers say in Server-Timing where their time went."),
    ] = True
    traces: Annotated[
        Literal["off", "otlp"],
        Meta(
            description="Where spans of requests go; otlp needs the extra otel and follows "
            "OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT."
        ),
    ] = "off"
    max_package_mb: Annotated[
        float,
        Meta(gt=0, le=1 << 24, description="The largest package, in MiB, that is taken over HTTP."),
    ] = 4096.0
    state: Annotated[
        str,
        Meta(
            description="The folder, relative to server.toml, that keeps what operators change and "
            "the audit log; empty keeps nothing across a restart."
        ),
    ] = ".mlserve"
    compat: Annotated[
        tuple[Literal["triton", "tensorflow-serving", "torchserve"], ...],
        Meta(
            description="Servers to stand in for: their usual ports are listened at as well. "
            "With triton the server gives its name as triton."
        ),
    ] = ()
    grpc_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(
            description="The port to answer gRPC at, which needs the extra grpc; 0 takes a free "
            "one, and without a port gRPC is off."
        ),
    ] = None
    watch_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="Seconds between two looks at the models' folder, to load what is new and "
            "unload what is gone; 0 looks only when it is told to (SIGHUP, the admin API).",
        ),
    ] = 0.0
    explicit_control: Annotated[
        bool,
        Meta(description="Load nothing of its own accord, only what the admin API asks for."),
    ] = False
    versions: Annotated[
        dict[str, str | int | list[str]],
        Meta(
            description='Which versions of a model are loaded, by its name ("*" is every other): '
            '"all", the number of newest ones, or a list of versions.'
        ),
    ] = {}
    keys: Annotated[
        str,
        Meta(
            description="The file of API keys, relative to server.toml, as 'mlserve keys add' "
            "writes it; without one no request needs a key."
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Meta(description="Whether to listen at other addresses than loopback without API keys."),
    ] = False
    tls_cert: Annotated[
        str,
        Meta(
            description="The certificate and its chain, as PEM, relative to server.toml; with it "
            "and tls_key every port speaks TLS."
        ),
    ] = ""
    tls_key: Annotated[
        str, Meta(description="The private key of tls_cert, as PEM, relative to server.toml.")
    ] = ""
    max_queue_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600_000,
            description="Requests that would wait longer for a worker are answered 503 at once; "
            "0 sets no limit.",
        ),
    ] = 0.0
    max_inflight_mb: Annotated[
        float,
        Meta(
            gt=0,
            le=1 << 20,
            description="MiB of inputs that may be in memory at the same time; more are answered "
            "503.",
        ),
    ] = 1024.0
    feedback_rows: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="Rows of each model whose predictions are remembered, so that POST "
            "/feedback/MODEL can join the truth to them; one takes 300 bytes to 1 KiB, and 0 "
            "remembers none.",
        ),
    ] = 0
    feedback_file_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 20,
            description="MiB that predictions with their truths may take as feedback.jsonl in the "
            "folder state; 0 writes none.",
        ),
    ] = 0
    sizing: dict[str, Sizing] = {}  # by model name; a model without one is measured at start


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read `server.toml` (or take the defaults), then the environment.

    A variable that is empty counts as not set. Raises `SettingsError` naming the setting, its value
    and what is allowed.
    """
    from .configuration import resolve

    return resolve(path, environ).settings


def to_toml(settings: Settings) -> str:
    """The text of a `server.toml`, with what each setting means and why each number is as it is."""
    lines = [
        f"# What can be set about this server. An environment variable such as {PREFIX}PORT wins.",
        "",
    ]
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        if field.name in TABLES:
            continue
        description = (field.type.extra_json_schema or {}).get("description", "")
        lines.append(f"# {description}")
        value = getattr(settings, field.name)
        # TOML has no word for nothing: the line shows where it would stand.
        lines.append(f"# {field.name} =" if value is None else f"{field.name} = {toml(value)}")
    return "\n".join(lines + tables(settings)) + "\n"


def tables(settings: Settings, origins: Mapping[str, str] | None = None) -> list[str]:
    """The lines of what stands in tables. origins: said beside each, by name of the setting."""
    lines = []
    origins = origins or {}
    if settings.versions:
        lines += ["", commented("[versions]", origins.get("versions", ""))]
        lines += [f"{toml(name)} = {toml(value)}" for name, value in settings.versions.items()]
    for name, sizing in settings.sizing.items():
        lines += ["", commented(f"[sizing.{toml(name)}]", origins.get("sizing", ""))]
        for field_name in sizing.__struct_fields__:
            if field_name != "reasons":
                line = f"{field_name} = {toml(getattr(sizing, field_name))}"
                lines.append(commented(line, sizing.reasons.get(field_name, "")))
    return lines


def commented(line: str, comment: str) -> str:
    """A line of TOML with a comment behind it, whatever stands in that."""
    shown = "".join(c if c.isprintable() else " " for c in comment).strip()
    return f"{line}  # {shown}" if shown else line


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    # Of what JSON lets stand in a text, TOML forbids one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
