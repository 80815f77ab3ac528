"""mlserve takes a trained model to a fast, safe, observable server, and proves every step."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mlserve-cli")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
