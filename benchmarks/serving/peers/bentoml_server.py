"""The tiny model behind BentoML: `bentoml serve bentoml_server:Tiny`; MODEL names the file."""

import os

import bentoml
import numpy as np


@bentoml.service(workers=1, traffic={"timeout": 30})
class Tiny:
    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000, route="/infer")
    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x.astype(np.float32)})[0]
