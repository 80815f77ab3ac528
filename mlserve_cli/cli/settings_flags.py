"""Every setting of a server as a flag of `mlserve up`, made from the one declaration.

The declaration costs some imports, so the flags are made when `up` is asked for and not before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_GIVEN = "mlserve.settings"
_NOT_FLAGS = ("models",)  # the command's own argument


def given(context: typer.Context) -> dict[str, str]:
    """The settings that were given as flags: name → text."""
    found: dict[str, str] = context.meta.get(_GIVEN, {})
    return found


class SettingsCommand(TyperCommand):
    """A command that also takes every setting."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own options, and the settings before --help."""
        *own, last = super().get_params(ctx)
        return [*own, *_flags(), last]


@cache
def _flags() -> tuple[Any, ...]:
    import msgspec

    from mlserve_cli.runtime.configuration import flag, kind_of
    from mlserve_cli.runtime.settings import TABLES, Settings

    parameters = []
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        name = field.name
        if name in TABLES or name in _NOT_FLAGS:
            continue
        switch = isinstance(kind_of(Settings, name), msgspec.inspect.BoolType)
        option = typer.Option(
            f"{flag(name)}/{flag('no_' + name)}" if switch else flag(name),
            help=_description(field.type),
            callback=_keep(name),
            expose_value=False,
            metavar=None if switch else "VALUE",
            rich_help_panel="Settings of the server",
        )
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[bool | None if switch else str | None, option],
            )
        )

    def settings() -> None:
        """Stands for a command that has all of them."""

    settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    maker = typer.Typer(add_completion=False)
    maker.command()(settings)
    return tuple(typer.main.get_command(maker).params)


def _keep(name: str) -> Callable[[typer.Context, Any], Any]:
    def keep(context: typer.Context, value: Any) -> Any:
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            _check(name, text)
            context.meta.setdefault(_GIVEN, {})[name] = text
        return value

    return keep


def _check(name: str, text: str) -> None:
    """Refuse what a setting cannot be, as any wrong option is refused."""
    from mlserve_cli.errors import SettingsError
    from mlserve_cli.runtime.configuration import resolve

    try:
        resolve(None, {}, {name: text})
    except SettingsError as error:
        raise typer.BadParameter(error.message) from error


def _description(found: Any) -> str:
    text: str = (getattr(found, "extra_json_schema", None) or {}).get("description", "")
    return text
