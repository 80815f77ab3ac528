"""Send an example row to each model of the server and print its answers.

    python client.py [URL]

It needs nothing but Python. An API key is taken from the environment variable KEY.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = [
    # file, what it is, where it goes
    "@EXAMPLES@",
]


def post(url, body, content_type):
    """POST one body; the answer as Python values."""
    headers = {"Content-Type": content_type}
    if "KEY" in os.environ:
        headers["Authorization"] = f"Bearer {os.environ['KEY']}"
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def main():
    base = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:@PORT@"
    if not base.startswith(("http://", "https://")):
        sys.exit(__doc__.strip())
    for file, content_type, path in EXAMPLES:
        try:
            answer = post(base + path, (HERE / file).read_bytes(), content_type)
        except urllib.error.HTTPError as error:  # the server's own words
            sys.exit(f"{path}: {error.code} {error.read().decode()}")
        except OSError as error:
            sys.exit(f"no server at {base}: {error}. Start one with: python server.py")
        print(f"{path}: {json.dumps(answer, ensure_ascii=False)}")


if __name__ == "__main__":
    main()
