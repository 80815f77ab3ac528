"""A folder of pictures; sub-folders are named after the classes of what lies in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlserve_cli.data import targets
from mlserve_cli.data.batch import Batch
from mlserve_cli.data.reading import Reading
from mlserve_cli.errors import DataError
from mlserve_cli.runtime.errors import RequestError
from mlserve_cli.runtime.processing.declaration import ImageInput
from mlserve_cli.runtime.tensors import Tensors

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})


def read(folder: Path, reading: Reading) -> Iterator[Batch]:
    """Stream the pictures in the order of their names, through the package's processing.

    Raises `DataError` for a folder without pictures, a picture that is damaged, and a sub-folder
    that is named after no class.
    """
    if not isinstance(reading.manifest.processing.input, ImageInput):
        raise DataError(
            f"'{folder}' is a folder of pictures, and '{reading.manifest.name}' does not declare "
            "how a picture becomes a tensor.",
            hint='PROCESSING in the model definition: {"input": {"kind": "image", …}}; '
            "or give .npz, .csv, .jsonl or file.py:function",
        )
    pictures = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not pictures:
        raise DataError(
            f"'{folder}' holds no pictures.",
            hint=f"they end in {', '.join(sorted(SUFFIXES))}",
        )
    return _batches(folder, pictures, reading)


def _batches(folder: Path, pictures: list[Path], reading: Reading) -> Iterator[Batch]:
    classes = [_class(folder, path) for path in pictures]
    labelled = reading.targets and all(name is not None for name in classes)
    if reading.targets and not labelled and any(name is not None for name in classes):
        stray = next(path for path, name in zip(pictures, classes, strict=True) if name is None)
        raise DataError(
            f"'{stray}' lies beside the sub-folders of classes and not in one.",
            hint="put every picture into the folder of its class, or none",
        )
    if labelled:
        _check_classes(folder, [name for name in classes if name is not None], reading)
    for start in range(0, len(pictures), reading.batch):
        window = slice(start, start + reading.batch)
        inputs = _tensors(pictures[window], reading)
        wanted = None
        if labelled:
            wanted = targets.to_array(
                classes[window],
                reading.manifest.labels,
                where=f"'{folder}'",
                numbers=range(start + 1, start + 1 + len(classes[window])),
            )
        yield Batch(inputs, wanted)


def _class(folder: Path, picture: Path) -> str | None:
    """The name of the sub-folder right below `folder`; None for a picture in the folder itself."""
    parts = picture.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else None


def _check_classes(folder: Path, names: list[str], reading: Reading) -> None:
    labels = reading.manifest.labels
    for name in dict.fromkeys(names):
        if labels and name not in labels:
            shown = ", ".join(labels[:20]) + (" …" if len(labels) > 20 else "")
            raise DataError(
                f"the sub-folder '{name}' of '{folder}' is named after no label of the package.",
                hint=f"the labels are {shown}",
            )
        if not labels and not name.isdecimal():
            raise DataError(
                f"the package has no labels, so '{folder / name}' has no class number.",
                hint="name the sub-folders 0, 1, 2 …, or give LABELS in the model definition",
            )


def _tensors(pictures: list[Path], reading: Reading) -> Tensors:
    files = []
    for path in pictures:
        try:
            files.append(path.read_bytes())
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error.strerror}.") from error
    try:
        return reading.processor.tensors(files)
    except RequestError as error:
        return _one_by_one(pictures, files, reading, error)


def _one_by_one(
    pictures: list[Path], files: list[bytes], reading: Reading, error: RequestError
) -> Tensors:
    """Find the picture that failed its batch, and name it."""
    for path, file in zip(pictures, files, strict=True):
        try:
            reading.processor.tensors([file])
        except RequestError as found:
            reason = found.message.removeprefix("row 0: ").removesuffix(".")
            raise DataError(f"'{path}': {reason}.", hint=found.hint) from found
    raise error
