"""The tiny model behind LitServe: `python litserve_server.py MODEL.onnx PORT`."""

import sys

import litserve
import numpy as np


class Api(litserve.LitAPI):
    def setup(self, device):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)

    def decode_request(self, request):
        item = request["inputs"][0]
        return np.asarray(item["data"], np.float32).reshape(item["shape"])

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, batch):
        return self.session.run(None, {"x": batch})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"outputs": [{"name": "y", "shape": [1, output.size], "data": output.tolist()}]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.001, api_path="/v2/models/tiny/infer"),
        accelerator="cpu",
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error"
    )
