"""`--batch 1,8,32`: the batch sizes that a command measures at."""

from __future__ import annotations

import typer

LARGEST = 65_536


def parse(text: str) -> tuple[int, ...]:
    """`"1,8,32"` → (1, 8, 32). Raises a usage error that names what is no batch size."""
    sizes = []
    for part in text.split(","):
        number = part.strip()
        if not number.isdigit() or not 0 < int(number) <= LARGEST:
            raise typer.BadParameter(
                f"'{number}' is no batch size; give whole numbers from 1 to {LARGEST}, "
                "such as 1,8,32",
                param_hint="--batch",
            )
        sizes.append(int(number))
    return tuple(dict.fromkeys(sizes))
