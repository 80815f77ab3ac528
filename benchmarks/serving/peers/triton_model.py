"""The tiny model in Triton's Python backend. It stands as model.py; MODEL names the file.

SITE_PACKAGES holds ONNX Runtime: the backend's own interpreter knows of no environment.
"""

import os
import sys

# First: the backend reads the memory of NumPy 1, and another one may be found before.
sys.path.insert(0, os.environ["SITE_PACKAGES"])

import numpy as np
import onnxruntime  # noqa: TID253 - the peer needs it, not mlserve
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, arguments):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    def execute(self, requests):
        rows = [backend.get_input_tensor_by_name(item, "x").as_numpy() for item in requests]
        output = self.session.run(None, {"x": np.concatenate(rows)})[0]
        parts = np.split(output, np.cumsum([len(part) for part in rows])[:-1])
        return [backend.InferenceResponse([backend.Tensor("y", part.copy())]) for part in parts]
