from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import TensorSpec


def document(client: Any) -> Any:
    return client.get("/openapi.json").json()


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else references(list(value.values()))
    return (
        [found for item in value for found in references(item)] if isinstance(value, list) else []
    )


def test_every_model_has_its_paths_and_every_reference_leads_somewhere(
    client: Any, load: Any
) -> None:
    load()
    load(name="other")
    found = document(client)
    assert found["openapi"] == "3.1.0"
    assert {"/predict/dbl", "/predict/other", "/v2/models/dbl/infer", "/readyz"} <= set(
        found["paths"]
    )
    for reference in references(found):
        assert reference.rpartition("/")[2] in found["components"]["schemas"]
    identities = [
        operation["operationId"]
        for path in found["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    ]
    assert len(identities) == len(set(identities)) == 6


def test_every_path_of_the_document_is_served(client: Any, load: Any) -> None:
    load()
    for path, operations in document(client)["paths"].items():
        for method in operations:
            assert client.request(method, path).status_code in (200, 400)


def test_a_table_shows_its_columns_and_a_real_row(client: Any, load: Any) -> None:
    columns = (Column("a"), Column("b", "integer"), Column("c", default=1.0))
    load(
        processing=Processing(
            input=TableInput(tensor="x", columns=columns), output=ValuesOutput(tensor="y")
        )
    )
    operation = document(client)["paths"]["/predict/dbl"]["post"]
    content = operation["requestBody"]["content"]
    row = content["application/json"]["schema"]["anyOf"][0]
    assert row["properties"]["b"] == {"type": "integer"}
    assert row["required"] == ["a", "b"]
    assert "text/csv" in content
    assert client.post("/predict/dbl", json=content["application/json"]["example"]).is_success
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert "values" in answer["properties"]["predictions"]["items"]["properties"]


@pytest.mark.parametrize(
    ("processing", "inputs", "media"),
    [
        (
            Processing(
                input=ImageInput(tensor="x", width=4, height=4, channels=1),
                output=ClassesOutput(tensor="y"),
            ),
            TensorSpec("x", "FP32", ("batch", 1, 4, 4)),
            {"image/png", "image/jpeg", "application/json"},
        ),
        (
            Processing(input=TextInput(tensor="x")),
            TensorSpec("x", "BYTES", ("batch",)),
            {"text/plain", "application/json"},
        ),
        (Processing(), TensorSpec("x", "FP32", ("batch", "n", 3)), {"application/json"}),
    ],
)
def test_each_kind_of_model_names_what_it_takes(
    client: Any, load: Any, processing: Processing, inputs: TensorSpec, media: set[str]
) -> None:
    rows = np.zeros([1 if isinstance(size, str) else size for size in inputs.shape], np.float32)
    if inputs.datatype == "BYTES":
        rows = np.array([b"hello"], dtype=np.object_)
    load({"x": rows}, inputs=(inputs,), processing=processing)
    operation = document(client)["paths"]["/predict/dbl"]["post"]
    assert set(operation["requestBody"]["content"]) == media
