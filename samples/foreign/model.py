"""Somebody else's ONNX file with a memory: Silero's voice detector, an LSTM inside an If.

Each call takes 32 ms of sound and the memory that the call before gave back. `python adapt.py`
writes speech.onnx from the file inside the package silero-vad (MIT); nothing is trained here.
"""

from functools import cache
from pathlib import Path

import numpy as np

NAME = "speech"
DESCRIPTION = "Is there a voice in 32 ms of sound at 16 kHz? The caller carries the memory"
LICENCE = "MIT"
FILES = ["speech.onnx", "voice.py"]
METRIC = {"name": "windows heard right", "higher_is_better": True, "unit": "points"}
THRESHOLD = 0.5
MEMORY = (2, 128)


def model() -> str:
    return "speech.onnx"


@cache
def rows(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The windows of one recording with the memory that the float network has at each of them."""
    import onnxruntime as ort
    from voice import recording, windows

    session = ort.InferenceSession(
        Path(__file__).with_name("speech.onnx"), providers=["CPUExecutionProvider"]
    )
    sound, kinds = recording(seed)
    audio = windows(sound)
    memories = [np.zeros((1, *MEMORY), np.float32)]
    for window in audio[:-1]:
        feed = {"audio": window[None], "memory": memories[-1]}
        memories.append(session.run(["next_memory"], feed)[0])
    return {"audio": audio, "memory": np.concatenate(memories)}, kinds


def sample() -> dict[str, np.ndarray]:
    inputs, kinds = rows(0)
    chosen = np.flatnonzero(kinds == 1)[:8].tolist() + np.flatnonzero(kinds == 0)[:8].tolist()
    return {name: array[chosen] for name, array in inputs.items()}


def calibration():
    for seed in (1, 2):
        yield rows(seed)[0]


def evaluation():
    for seed in (3, 4, 5, 6):
        inputs, kinds = rows(seed)
        clear = kinds >= 0
        yield {name: array[clear] for name, array in inputs.items()}, kinds[clear]


def metric(outputs, targets):
    """1 where the network hears a voice exactly where there is one."""
    heard = outputs["speech"][:, 0] > THRESHOLD
    return (heard == (targets == 1)).astype(float)
