"""Which protocol a server speaks and which models it serves: from its URL, else by asking it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from mlserve_cli.bench.live import rpc
from mlserve_cli.bench.live.place import Place, ask
from mlserve_cli.bench.live.served import PAYLOADS, PROTOCOLS, Protocol, Served, Signature, spec
from mlserve_cli.errors import MlserveError
from mlserve_cli.runtime.protocols.tensorflow_status import DTYPES

_PATHS: tuple[tuple[Protocol, str], ...] = (
    ("oip-binary", r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?"),
    (
        "tensorflow",
        r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+))?(?::predict)?",
    ),
    ("torchserve", r"/predictions/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?"),
    ("predict", r"/predict/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?"),
)

_DATATYPES = {theirs: ours for ours, theirs in DTYPES.items()}


def discover(place: Place, *, protocol: Protocol | None = None, model: str | None = None) -> Served:
    """What to measure at a place.

    Raises `MlserveError` for a server that speaks none of the protocols, one that does not serve
    `model` (it lists those that it does), and one that serves several where none is named.
    """
    version, named = None, protocol is not None
    if place.path:
        protocol, model, version = _from_path(place, protocol, model)
    if place.grpc or protocol == "oip-grpc":
        if not place.grpc:
            raise MlserveError(
                "gRPC has a port of its own.",
                hint="give it as the URL: grpc://HOST:PORT, as 'mlserve up' prints it",
            )
        return rpc.discover(place, model)
    if protocol is None:
        protocol = _detected(place, model)
    if protocol == "oip-binary" and not named and not _takes_binary(place):
        protocol = "oip-json"
    model = _chosen(place, protocol, model)
    signature = None if protocol in PAYLOADS else _signature(place, protocol, model, version)
    return Served(
        protocol=protocol,
        model=model,
        version=version,
        signature=signature,
        ours=_is_ours(place),
    )


def _from_path(
    place: Place, protocol: Protocol | None, model: str | None
) -> tuple[Protocol, str, str | None]:
    for named, pattern in _PATHS:
        found = re.fullmatch(pattern, place.path)
        if found is None:
            continue
        by_path = unquote(found["model"])
        if model not in (None, by_path):
            raise MlserveError(
                f"the URL names the model '{by_path}', and --model is '{model}'.",
                hint="give one of them",
            )
        family = named.partition("-")[0]
        if protocol is not None and not protocol.startswith(family):
            raise MlserveError(
                f"'{place.path}' is a path of {family}, and --protocol is {protocol}.",
                hint="leave one of them out",
            )
        version = unquote(found["version"]) if found["version"] else None
        return protocol or named, by_path, version
    raise MlserveError(
        f"'{place.path}' is no path of a protocol that is measured here.",
        hint="give the server alone, http://HOST:PORT, and the model with --model",
    )


def _takes_binary(place: Place) -> bool:
    about = ask(place, "GET", "/v2").json()
    return isinstance(about, dict) and "binary_tensor_data" in (about.get("extensions") or ())


def _detected(place: Place, model: str | None) -> Protocol:
    about = ask(place, "GET", "/v2")
    if about.status == 401:
        raise _no_key(place)
    document = about.json()
    if about.status == 200 and isinstance(document, dict) and "name" in document:
        return "oip-binary"  # if it takes bytes, which is asked next
    if model is not None:
        status = ask(place, "GET", f"/v1/models/{quote(model, safe='')}").json()
        if isinstance(status, dict) and {"model_version_status", "ready"} & status.keys():
            return "tensorflow"
    ping = ask(place, "GET", "/ping").json()
    if isinstance(ping, dict) and "status" in ping:
        return "torchserve"
    if model is None and _names(ask(place, "GET", "/v1/models").json()):
        return "tensorflow"
    known = ", ".join(PROTOCOLS)
    hint = f"--protocol says which it is: {known}"
    if model is None:
        hint = f"--model NAME (TensorFlow Serving lists none); or --protocol, one of {known}"
    raise MlserveError(
        f"what answers at {place.url} speaks no protocol that could be told.", hint=hint
    )


def _no_key(place: Place) -> MlserveError:
    return MlserveError(
        f"the server at {place.url} asks for an API key.", hint="--key, or MLSERVE_KEY"
    )


def _chosen(place: Place, protocol: Protocol, model: str | None) -> str:
    names = _listed(place, protocol)
    if model is not None:
        if names and model not in names:
            raise MlserveError(
                f"the server at {place.url} does not serve '{model}'.",
                hint="it serves " + ", ".join(names),
            )
        return model
    if len(names) == 1:
        return names[0]
    if not names:
        raise MlserveError(
            f"the server at {place.url} does not say what it serves.", hint="--model NAME"
        )
    raise MlserveError(
        f"the server at {place.url} serves {len(names)} models.",
        hint="--model with one of " + ", ".join(names),
    )


def _listed(place: Place, protocol: Protocol) -> list[str]:
    """The names of the models; empty where the server does not say."""
    index = ("POST", "/v2/repository/index", b'{"ready":true}')
    lists: tuple[tuple[str, str, bytes | None], ...] = (index, ("GET", "/v1/models", None))
    if protocol == "tensorflow":
        lists = lists[::-1]
    elif protocol == "torchserve":
        lists = (("GET", "/models", None), *lists)
    for method, path, body in lists:
        reply = ask(place, method, path, body)
        if reply.status == 401:
            raise _no_key(place)
        if reply.status == 200 and (names := _names(reply.json())):
            return names
    return []


def _names(document: Any) -> list[str]:
    """The models of any of the lists: ours, KServe's, TorchServe's, the repository index."""
    if isinstance(document, dict):
        document = document.get("models")
    if not isinstance(document, list):
        return []
    found = set()
    for entry in document:
        name = entry.get("name") or entry.get("modelName") if isinstance(entry, dict) else entry
        if isinstance(name, str):
            found.add(name)
    return sorted(found)


def _is_ours(place: Place) -> bool:
    """Whether the metrics are ours, so that the server's side can be shown beside the client's."""
    reply = ask(place, "GET", "/metrics?name[]=mlserve_ready")
    return reply.status == 200 and b"mlserve_ready" in reply.body


def _signature(place: Place, protocol: Protocol, model: str, version: str | None) -> Signature:
    base = f"/{'v1' if protocol == 'tensorflow' else 'v2'}/models/{quote(model, safe='')}"
    base += f"/versions/{quote(version, safe='')}" if version else ""
    reply = ask(place, "GET", base + ("/metadata" if protocol == "tensorflow" else ""))
    if reply.status == 401:
        raise _no_key(place)
    if reply.status != 200:
        raise MlserveError(
            f"the server at {place.url} tells nothing of '{model}': {reply.status}, {reply.words}.",
            hint="--model with the name of a model that it serves",
        )
    document = reply.json()
    try:
        if protocol == "tensorflow":
            return _tensorflow(document)
        return Signature(
            inputs=_specs(document["inputs"]), outputs=_specs(document.get("outputs", ()))
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise MlserveError(
            f"what the server at {place.url} tells of '{model}' holds no signature."
        ) from error


def _specs(entries: Any) -> tuple[Any, ...]:
    return tuple(spec(entry["name"], entry["datatype"], entry["shape"]) for entry in entries)


def _tensorflow(document: Any) -> Signature:
    signatures = document["metadata"]["signature_def"]["signature_def"]
    chosen = signatures.get("serving_default") or next(iter(signatures.values()))

    def specs(side: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(
            spec(
                name,
                _DATATYPES.get(info["dtype"], info["dtype"]),
                [size["size"] for size in (info["tensor_shape"].get("dim") or ())],
            )
            for name, info in side.items()
        )

    return Signature(inputs=specs(chosen["inputs"]), outputs=specs(chosen.get("outputs", {})))
