import numpy as np
import pytest


@pytest.fixture
def picture_package(tmp_path):
    """Make a package that takes 8 × 8 grey pictures of real handwritten digits."""
    pytest.importorskip("PIL")
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.datasets import load_digits

    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime.manifest import Manifest
    from mlserve_cli.runtime.processing.declaration import ClassesOutput, ImageInput, Processing

    def make(target=None, **fields):
        data = load_digits()
        # As the processing will see them: 0 … 1 in steps of 1/255.
        images = (np.rint(data.data * 255 / 16) / 255).astype(np.float32)
        # The nearest mean of a class, as a linear layer: 2 x·m - m·m is largest for it.
        means = np.stack([images[data.target == digit].mean(0) for digit in range(10)])
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["image"], ["flat"]),
                helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
            ],
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            [
                numpy_helper.from_array(20 * means.T, "w"),
                numpy_helper.from_array(-10 * (means**2).sum(1), "b"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        values = {
            "name": "digits",
            "version": "1",
            "variant": "fp32",
            "inputs": (),
            "outputs": (),
            "labels": tuple("0123456789"),
            "processing": Processing(
                input=ImageInput(tensor="image", width=8, height=8, channels=1),
                output=ClassesOutput(tensor="logits", softmax=True),
            ),
        }
        target = target or tmp_path / "digits"
        with create(target) as draft:
            onnx.save(model, draft.serve / "model.onnx")
            sample = [{"image": images.reshape(-1, 1, 8, 8)[:200]}]
            sealed = finish(draft, Manifest(**(values | fields)), sample)
        return Package(target, sealed)

    return make
