"""A server with a known service time, one request at a time, first come first served.

`python fake_server.py '{"service_ms": 4}'` prints its port. It does not compute: the moment of each
answer is worked out when its request is here (begun when the one before it has ended), and the
answer is written then, so that errors do not add up. It speaks the Open Inference Protocol, as far
as a load generator looks, and misbehaves where it is told to:

service_ms; stall: [after_s, length_ms] from the first request on; status: of every answer;
every, then: each n-th request is met with "drop", "silence", "503", "close" or "chunked"; body: of
an answer, so many `times`.
"""

import asyncio
import json
import re
import selectors
import signal
import sys

INDEX = [{"name": "fake", "version": "1", "state": "READY"}]
TENSOR = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
OUTPUT = [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]
ANSWER = {
    "model_name": "fake",
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}],
}


def http(status, body, extra=b""):
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b" % (
        status,
        extra,
        len(body),
        body,
    )


class Fake:
    def __init__(self, wish, loop):
        self.wish, self.loop = wish, loop
        self.free = 0.0
        self.count = 0
        self.first = None
        body = wish.get("body")
        self.body = json.dumps(ANSWER).encode() if body is None else body.encode()
        self.body *= wish.get("times", 1)

    def moment(self, now):
        """When the request that came now is answered."""
        if self.first is None:
            self.first = now
        service = self.wish.get("service_ms", 0) / 1e3
        begins = max(now, self.free)
        ends = begins + service
        if "stall" in self.wish:
            after, length_ms = self.wish["stall"]
            stall = self.first + after
            if begins < stall + length_ms / 1e3 and ends > stall:
                ends = stall + length_ms / 1e3 + service
        self.free = ends
        return ends

    def answer(self, line, body, transport):
        method, path = line.split(b" ")[:2]
        if path.endswith(b"/infer") or path.startswith(b"/predict"):
            self.infer(transport)
        elif path == b"/v2" and self.wish.get("oip", True):
            transport.write(http(200, b'{"name":"fake","version":"0","extensions":[]}'))
        elif path == b"/v2/repository/index" and method == b"POST":
            transport.write(http(200, json.dumps(INDEX).encode()))
        elif path == b"/v2/models/fake":
            about = {"name": "fake", "inputs": TENSOR, "outputs": OUTPUT}
            transport.write(http(200, json.dumps(about).encode()))
        else:
            transport.write(http(404, b'{"error":"Not Found"}'))

    def infer(self, transport):
        self.count += 1
        every = self.wish.get("every")
        what = self.wish["then"] if every and self.count % every == 0 else None
        if what == "silence":
            return
        if what == "drop":
            transport.abort()
            return
        status = 503 if what == "503" else self.wish.get("status", 200)
        text = http(status, self.body)
        if what == "close":
            text = http(status, self.body, b"connection: close\r\n")
        if what == "chunked":
            text = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                len(self.body),
                self.body,
            )
        moment = self.moment(self.loop.time())
        self.loop.call_at(moment, self.write, transport, text, what == "close")

    @staticmethod
    def write(transport, text, closes):
        if not transport.is_closing():
            transport.write(text)
            if closes:
                transport.close()


class Connection(asyncio.Protocol):
    def __init__(self, fake):
        self.fake, self.read = fake, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.read += data
        while b"\r\n\r\n" in self.read:
            head, _, rest = self.read.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self.read = rest[length:]
            self.fake.answer(head.partition(b"\r\n")[0], rest[:length], self.transport)


async def main():
    loop = asyncio.get_running_loop()
    fake = Fake(json.loads(sys.argv[1]), loop)
    server = await loop.create_server(lambda: Connection(fake), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # `select` counts microseconds where epoll counts milliseconds.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(main())
