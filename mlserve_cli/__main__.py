"""`python -m mlserve_cli`: the command, where its script is not on the path."""

from mlserve_cli.cli.main import run

if __name__ == "__main__":
    run()
