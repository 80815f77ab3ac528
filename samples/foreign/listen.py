"""Listen to a recording through a server, 32 ms at a time, and carry the network's memory along.

The server keeps nothing of a caller: what it must remember comes back with each answer and goes out
with the next question. So any replica may answer, and several callers share a batch.
"""

import argparse
import json
import urllib.request

import numpy as np
from voice import RATE_HZ, WINDOW, recording, windows

THRESHOLD = 0.5


def tensor(name: str, array: np.ndarray) -> dict[str, object]:
    return {
        "name": name,
        "datatype": "FP32",
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }


def ask(url: str, audio: np.ndarray, memory: np.ndarray) -> tuple[float, np.ndarray]:
    """One window and the memory so far → how likely a voice is, and the memory from now on."""
    question = {"inputs": [tensor("audio", audio[None]), tensor("memory", memory)]}
    request = urllib.request.Request(
        f"{url}/v2/models/speech/infer",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    outputs = {output["name"]: np.array(output["data"], np.float32) for output in answer["outputs"]}
    return float(outputs["speech"][0]), outputs["next_memory"].reshape(1, 2, 128)


def listen(url: str, sound: np.ndarray, *, remembers: bool = True) -> np.ndarray:
    """Whether a voice is heard in each window; without its memory, each as if it were the first."""
    memory = none = np.zeros((1, 2, 128), np.float32)
    heard = []
    for audio in windows(sound):
        likely, memory = ask(url, audio, memory if remembers else none)
        heard.append(likely > THRESHOLD)
    return np.array(heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--recordings", type=int, default=4)
    wanted = parser.parse_args()
    right, total = {True: 0, False: 0}, 0
    for seed in range(10, 10 + wanted.recordings):
        sound, kinds = recording(seed)
        clear = kinds >= 0
        total += int(np.count_nonzero(clear))
        for remembers in (True, False):
            heard = listen(wanted.url.rstrip("/"), sound, remembers=remembers)
            right[remembers] += int(np.count_nonzero((heard == kinds)[clear]))
            if remembers and seed == 10:
                edges = np.flatnonzero(np.diff(np.array([0, *heard, 0], int)))
                for begin, end in edges.reshape(-1, 2) * WINDOW / RATE_HZ:
                    print(f"a voice from {begin:.2f} s to {end:.2f} s")
    print(f"{right[True]} of {total} windows heard right with its memory")
    print(f"{right[False]} of {total} windows heard right without it")


if __name__ == "__main__":
    main()
