"""Promise 18: nothing joins ground truth to predictions → built in. Against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from mlserve_cli.cli.main import app
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    Processing,
    TableInput,
)

grpc = pytest.importorskip("grpc")

LABELS = ("setosa", "versicolor", "virginica")
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")

RUN = """
import sys
from pathlib import Path
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

root = Path(sys.argv[1])
settings = Settings(
    port=0, grpc_port=0, shutdown_grace_s=0, sizing={"iris": Sizing(inline=True)},
    feedback_rows=10_000, feedback_file_mb=1,
)
server = Server(settings, root)
def announce(url):
    print(url, server.rpc.ports[0] if server.rpc else "", flush=True)
serve(build_app(server), server, announce=announce)
"""


class Running:
    """A server in a process of its own, as a client sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(root)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )
        assert self.process.stdout is not None
        self.url, _, port = self.process.stdout.readline().rstrip("\n").partition(" ")
        self.grpc = f"127.0.0.1:{port}"

    def send(
        self, path: str, body: Any, *, method: str = "POST", **headers: str
    ) -> tuple[Any, str | None]:
        """The JSON of a reply, and its X-Request-Id."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("content-type", "application/json")
        request = urllib.request.Request(self.url + path, data, named, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read()), reply.headers["x-request-id"]

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Of one metric: (version, arm, result) → value, of the labels that it has."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as reply:
            text = reply.read().decode()
        return {
            tuple(
                sample.labels[each]
                for each in ("version", "arm", "result")
                if each in sample.labels
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def put(iris: Any, iris_onnx: Path, tmp_path: Path) -> Callable[..., None]:
    """Put a version into the repository; `bias` is added to the logits, and makes it worse."""
    from onnx import load, numpy_helper, save

    def make(version: str, bias: tuple[float, float, float] = (0, 0, 0)) -> None:
        model = load(iris_onnx)
        for tensor in model.graph.initializer:
            if tensor.name == "bias":
                worse = numpy_helper.to_array(tensor) + np.array(bias, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(worse, "bias"))
        place = tmp_path / "models" / "iris" / version
        place.parent.mkdir(parents=True, exist_ok=True)
        columns = tuple(Column(name) for name in COLUMNS)
        manifest = Manifest(
            name="iris",
            version=version,
            variant="fp32",
            inputs=(),
            outputs=(),
            labels=LABELS,
            processing=Processing(
                input=TableInput(tensor="x", columns=columns), output=ClassesOutput("scores")
            ),
        )
        with create(place) as draft:
            save(model, draft.serve / "model.onnx")
            finish(draft, manifest, [{"x": iris[0]}])

    return make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Running]]:
    running: list[Running] = []

    def run() -> Running:
        running.append(Running(tmp_path))
        return running[-1]

    yield run
    for each in running:
        each.close()


def oip(row: Any, **more: Any) -> dict[str, Any]:
    data = [float(value) for value in row]
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}], **more}


def test_promise_18_ground_truth_is_joined_to_predictions_and_tells_a_worse_canary(
    start: Any, put: Any, iris: Any
) -> None:
    put("1")
    put("2", bias=(0, 0, 4))  # takes most versicolor for virginica
    server = start()
    rule = {"default": "1", "weights": {"2": 40}}
    server.send("/admin/v1/models/iris/rule", rule, method="PUT")
    truths = []
    right = {"1": [0, 0], "2": [0, 0]}
    for row, truth in zip(*iris, strict=True):
        answer, identity = server.send("/v2/models/iris/infer", oip(row))
        of_version = right[answer["model_version"]]
        of_version[0] += int(np.argmax(answer["outputs"][0]["data"]) == truth)
        of_version[1] += 1
        truths.append({"id": identity, "truth": LABELS[truth]})

    lines = "\n".join(json.dumps(each) for each in truths).encode()
    found, _ = server.send("/feedback/iris", lines)
    again, _ = server.send("/feedback/iris", truths[:10])

    assert (found["joined"], found["unknown"], again["duplicate"]) == (150, 0, 10)
    assert min(count for _, count in right.values()) >= 55  # both were really asked
    accuracy = {version: part[0] / part[1] for version, part in right.items()}
    assert accuracy["1"] - accuracy["2"] > 0.15
    shown = server.samples("mlserve_feedback_accuracy")
    assert shown == pytest.approx({("1", "default"): accuracy["1"], ("2", "canary"): accuracy["2"]})
    rows = server.samples("mlserve_feedback_rows_total")
    assert rows["2", "canary", "agree"] == right["2"][0]
    assert rows["2", "canary", "differ"] == right["2"][1] - right["2"][0]

    table = CliRunner().invoke(app, ["status", "--url", server.url]).stdout
    for version in ("1", "2"):
        assert f"{100 * accuracy[version]:.1f} % right [" in table
    models = json.loads(CliRunner().invoke(app, ["status", "--url", server.url, "--json"]).stdout)
    first, second = (entry["feedback"] for entry in models["models"])
    assert second["accuracy_interval"][1] < first["accuracy_interval"][0]  # roll it back

    written = [
        json.loads(line)
        for line in (server.root / ".mlserve" / "feedback.jsonl").read_text().splitlines()
    ]
    assert len(written) == 150
    assert sum(line["prediction"] == line["truth"] for line in written) == sum(
        part[0] for part in right.values()
    )


def test_promise_18_truth_reaches_a_shadow_without_risk_and_outlives_a_version(
    start: Any, put: Any, iris: Any
) -> None:
    put("1")
    put("2", bias=(0, 0, 4))
    server = start()
    server.send("/admin/v1/models/iris/rule", {"default": "1", "shadow": "2"}, method="PUT")
    truths = []
    for row, truth in zip(*iris, strict=True):
        answer, identity = server.send("/v2/models/iris/infer", oip(row))
        assert answer["model_version"] == "1"
        truths.append({"id": identity, "truth": int(truth)})
    server.send("/admin/v1/models/iris/promote", {"version": "2"})
    server.send("/admin/v1/models/iris/unload", {"version": "1"})

    found, _ = server.send("/feedback/iris", truths)

    assert found["joined"] == 150
    shown = server.samples("mlserve_feedback_accuracy")
    assert shown.keys() == {("1", "default"), ("2", "shadow")}
    assert shown["1", "default"] - shown["2", "shadow"] > 0.15
    copied = sum(server.samples("mlserve_shadow_rows_total").values())
    rows = server.samples("mlserve_feedback_rows_total")
    assert rows["2", "shadow", "agree"] + rows["2", "shadow", "differ"] == copied > 100


def test_promise_18_truth_is_joined_to_an_answer_of_every_protocol(
    start: Any, put: Any, iris: Any
) -> None:
    put("1")
    server = start()
    row = [float(value) for value in iris[0][0]]
    columns = dict(zip(COLUMNS, row, strict=True))
    sent: list[tuple[str, Any]] = [
        ("/v2/models/iris/infer", oip(row)),
        ("/v2/models/iris/versions/1/infer", oip(row)),
        ("/predict/iris", columns),
        ("/v1/models/iris:predict", {"instances": [row]}),
        ("/predictions/iris", columns),
    ]
    truths: list[dict[str, Any]] = []
    for number, (path, body) in enumerate(sent):
        _, made = server.send(path, body)
        _, own = server.send(path, body, X_Request_Id=f"order {number}")
        assert own == f"order {number}"
        truths += [{"id": made, "truth": "setosa"}, {"id": own, "truth": "setosa"}]
    server.send("/v2/models/iris/infer", oip(row, id="in the message"))
    truths.append({"id": "in the message", "truth": "setosa"})
    two = {"instances": [row, [float(value) for value in iris[0][149]]]}
    _, several = server.send("/v1/models/iris:predict", two)
    truths += [{"id": several, "row": 1, "truth": "virginica"}, {"id": several, "truth": 0}]
    truths += [{"id": each, "truth": "setosa"} for each in over_grpc(server.grpc, row)]

    found, _ = server.send("/feedback/iris", truths)

    assert (found["joined"], found["reasons"]) == (len(truths), {})
    shown = server.samples("mlserve_feedback_rows_total")
    assert shown["1", "named", "agree"] == 2
    assert shown["1", "default", "agree"] == len(truths) - 2
    assert sum(shown.values()) == len(truths)


def over_grpc(address: str, row: list[float]) -> list[str]:
    """Ids of one answer by each of the protocols that speak gRPC."""
    from mlserve_cli.runtime.rpc.schema import message

    infer = message("inference.ModelInferRequest")(model_name="iris", id="of a message")
    infer.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(row)
    predict = message("tensorflow.serving.PredictRequest")()
    predict.model_spec.name = "iris"
    tensor = predict.inputs["x"]
    tensor.dtype = 1
    tensor.float_val.extend(row)
    for size in (1, 4):
        tensor.tensor_shape.dim.add(size=size)
    ids = ["of a message"]
    with grpc.insecure_channel(address) as channel:
        for path, sent in (
            ("/inference.GRPCInferenceService/ModelInfer", infer),
            ("/tensorflow.serving.PredictionService/Predict", predict),
        ):
            call = channel.unary_unary(path)
            _, state = call.with_call(sent.SerializeToString(), timeout=60)
            ids += [value for key, value in state.trailing_metadata() if key == "x-request-id"]
    assert len(ids) == 3
    return [ids[0], ids[2]]
