"""`python with_olive.py MODEL ROWS OUT`: Olive's static quantization as it comes.

Run in Olive's own environment by against_peers.py.
"""

import sys
from pathlib import Path

import numpy as np
import onnx  # noqa: TID253  (a script of its own)
from olive.data.config import DataComponentConfig, DataConfig
from olive.data.registry import Registry
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxStaticQuantization

model, rows, out = sys.argv[1:]
data = dict(np.load(rows))


class Rows:
    """One row at a time, and a label that nothing asks for."""

    def __len__(self):
        return len(next(iter(data.values())))

    def __getitem__(self, index):
        return {name: array[index] for name, array in data.items()}, 0


@Registry.register_dataset()
def our_rows(**_):
    return Rows()


config = DataConfig(
    name="rows",
    load_dataset_config=DataComponentConfig(type="our_rows"),
    pre_process_data_config=DataComponentConfig(type="skip_pre_process"),
    post_process_data_config=DataComponentConfig(type="skip_post_process"),
    dataloader_config=DataComponentConfig(type="default_dataloader", params={"batch_size": 1}),
)
step = create_pass_from_dict(OnnxStaticQuantization, {"data_config": config}, disable_search=True)
written = step.run(ONNXModelHandler(model), str(Path(out).parent / "olive"))
# It may have put weights beside, and one file is asked for.
onnx.save(onnx.load(written.model_path), out)
