"""The server: what `mlserve up` runs and what `mlserve emit` copies into a server folder.

It ships alone, under any name: it imports nothing of the toolchain, and every import inside it is
relative. The two flows of a request are in `dataplane` (tensors in, tensors out) and `protocols`
(bytes in, bytes out).
"""
