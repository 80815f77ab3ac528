"""Train the network of model.py and write weights.safetensors beside it: about a minute.

`python train.py wide.py` trains the wide one, and writes wide.safetensors: about ten minutes.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from mlserve_cli.cli import console
from mlserve_cli.package.definition import Definition
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("definition", nargs="?", default="model.py", help="model.py, or wide.py")
    parser.add_argument("--epochs", type=int, help="else as TRAINING of the definition says")
    arguments = parser.parse_args()
    definition = Definition.load(Path(__file__).parent / arguments.definition)
    options = TrainingOptions.of(definition, epochs=arguments.epochs)
    torch.manual_seed(SEED)
    network = definition.function("architecture")()
    with console.progress() as progress:
        history = train(
            network,
            batches(definition, ("image",)),
            options=options,
            loss=task_loss(definition, options),
            seed=SEED,
            progress=progress,
        )
    target = definition.value("WEIGHTS")
    save_file(network.state_dict(), target)
    right = total = 0
    with torch.inference_mode():
        for images, digits in definition.pairs("evaluation"):
            right += int((network(images).argmax(1) == digits).sum())
            total += len(digits)
    print(
        f"{options.epochs} epochs in {history.precision}, {history.seconds:.0f} s: "
        f"{right} of {total} held-out digits right; {target.name} written"
    )


if __name__ == "__main__":
    main()
