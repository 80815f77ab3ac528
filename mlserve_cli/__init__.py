"""mlserve takes a trained model to a fast, safe, observable server, and proves every step."""


def __getattr__(name: str) -> str:
    # Looked up when it is asked for: that takes longer than all else that a command imports of us.
    if name != "__version__":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mlserve-cli")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
