"""The server: what `mlserve up` runs and what `mlserve emit` copies into a server folder.

It ships alone, under any name: it imports nothing of the toolchain, and every import inside it is
relative. The two flows of a request are in `dataplane` (tensors in, tensors out) and `protocols`
(bytes in, bytes out).
"""

import os

# ONNX Runtime 1.32 reports its use to Microsoft, and keeps an identifier of the machine under
# XDG_CACHE_HOME, unless it reads this before it is loaded (Privacy.md of its wheel). We promise
# that nothing is sent anywhere; every command and every server imports this before the engine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
