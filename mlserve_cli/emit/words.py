"""The words that the templates of a server folder leave open."""

from __future__ import annotations

from collections.abc import Sequence

from mlserve_cli.emit import runtime_copy
from mlserve_cli.emit.example import ExampleFile
from mlserve_cli.emit.requirements import python_version
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.example import curl_line
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.tensors import TensorSpec


def fill(
    packages: Sequence[Package],
    settings: Settings,
    examples: Sequence[ExampleFile],
    *,
    name: str,
) -> dict[str, str]:
    """Placeholder → text. `name` is the folder's."""
    base = f"http://127.0.0.1:{settings.port}"
    return {
        "@TITLE@": name,
        "@PYTHON@": python_version(),
        "@PORT@": str(settings.port),
        "@VERSION@": runtime_copy.version(),
        "@IMAGE@": _image(name),
        "@CURL@": curl_line(packages[0], base),
        "@MODELS@": "\n\n".join(_model(package, base) for package in packages),
        # Quoted in the template, so that it is Python before it is filled in, too.
        '"@EXAMPLES@",': "\n    ".join(
            f'("{each.file}", "{each.content_type}", "{each.path}"),' for each in examples
        ),
    }


def _model(package: Package, base: str) -> str:
    manifest = package.manifest
    lines = [f"### {manifest.name} {manifest.version}, {manifest.variant}", ""]
    if manifest.description:
        lines += [manifest.description, ""]
    lines += ["| | name | type | shape |", "|---|---|---|---|"]
    lines += [_tensor("in", spec) for spec in manifest.inputs]
    lines += [_tensor("out", spec) for spec in manifest.outputs]
    return "\n".join([*lines, "", "```", curl_line(package, base), "```"])


def _tensor(side: str, spec: TensorSpec) -> str:
    return f"| {side} | `{spec.name}` | {spec.datatype} | ({', '.join(map(str, spec.shape))}) |"


def _image(name: str) -> str:
    """A name that an image may have: lower case, beginning with a letter or digit."""
    allowed = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower())
    return allowed.strip("-") or "server"
