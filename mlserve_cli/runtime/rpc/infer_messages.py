"""`ModelInferRequest` → request and tensors, outputs → `ModelInferResponse`.

A request becomes the same structure that the REST protocol parses its JSON into, and goes through
the same checks, so that both refuse the same things in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequest
from ..manifest import Manifest
from ..protocols import binary_tensors, json_tensors, oip_messages
from ..protocols.oip_messages import InferInput, InferRequest, RequestedOutput
from ..tensors import Tensors, check_name, datatype_of
from . import contents
from .schema import message

Request = message("inference.ModelInferRequest")
Response = message("inference.ModelInferResponse")


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as values; one without a value is None."""
    if not given:
        return {}
    found = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, kind) if kind else None
    return found


def request_of(sent: Any) -> InferRequest:
    """What is asked for, without the data. Raises `InvalidRequest` and `NotImplementedHere`."""
    request = InferRequest(
        inputs=[
            InferInput(item.name, list(item.shape), item.datatype, parameters(item.parameters))
            for item in sent.inputs
        ],
        id=sent.id,
        parameters=parameters(sent.parameters),
        outputs=[
            RequestedOutput(output.name, parameters(output.parameters)) for output in sent.outputs
        ],
    )
    oip_messages.check(request)
    return request


def tensors_of(manifest: Manifest, request: InferRequest, sent: Any) -> Tensors:
    """The inputs, raw or typed. Whether they fit the model is for the data plane to check."""
    raw = sent.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"there are {len(request.inputs)} inputs and {len(raw)} raw_input_contents for model "
            f"'{manifest.name}', and there must be one for each"
        )
    tensors: Tensors = {}
    for index, item in enumerate(request.inputs):
        check_name(manifest.inputs, item.name, model=manifest.name)
        json_tensors.check_header(item)
        typed = sent.inputs[index]
        if not raw:
            tensors[item.name] = contents.decode(item, typed.contents)
        elif typed.HasField("contents"):
            raise InvalidRequest(
                f"input '{item.name}' has contents beside raw_input_contents; it must be one of "
                "them for all inputs"
            )
        else:
            body = raw[index]
            tensors[item.name] = binary_tensors.decode(item, body, 0, len(body))
    return tensors


def reply(manifest: Manifest, request: InferRequest, outputs: Tensors, *, raw: bool) -> Any:
    """The answer. raw: as bytes; else typed where all of the outputs have typed contents."""
    answer = Response(model_name=manifest.name, model_version=manifest.version, id=request.id)
    datatypes = {name: datatype_of(array) for name, array in outputs.items()}
    raw = raw or any(datatype not in contents.FIELDS for datatype in datatypes.values())
    for name, array in outputs.items():
        entry = answer.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        if raw:
            answer.raw_output_contents.append(binary_tensors.encode(array))
        else:
            contents.encode(entry.contents, datatypes[name], array)
    return answer
