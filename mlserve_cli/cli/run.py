"""`mlserve run`: make the package of a recipe again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlserve_cli.cli import console, variant
from mlserve_cli.errors import Exit, Refused


def command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe.toml, as 'optimize' writes it.")
    ],
    output: variant.Output,
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Replay a recipe: the same steps on the same source and rows give the same digest.

    Steps that were made before are taken from the cache. Where the digest is another than the
    recipe's, the package is kept and the status is 1.
    """
    from mlserve_cli.pipeline import recipe as recipes
    from mlserve_cli.pipeline.replay import replay

    read = recipes.read(recipe)
    with console.progress() as progress:
        found = replay(read, output, progress=progress, overwrite=force)
    if as_json:
        console.print_json(
            {
                "package": str(output),
                "digest": found.package.manifest.digest,
                "same": found.same,
                "made": found.made,
                "cached": found.cached,
            }
        )
    else:
        console.stdout().print(
            f"{output}: {found.package.manifest.variant}, {found.package.manifest.digest[:19]}, "
            + ("the recipe's own digest, " if found.same else "")
            + f"{found.made} steps made, {found.cached} from the cache",
            markup=False,
            highlight=False,
        )
    if found.same is False:
        console.print_error(
            Refused(
                f"the digest of '{output}' is not the recipe's, {read.digest[:19]}….",
                hint="the source, its rows or a library's version is another than when the "
                "recipe was written",
            )
        )
        raise typer.Exit(Exit.REFUSED)
    if not as_json:
        console.next_command(f"mlserve up {output}")
