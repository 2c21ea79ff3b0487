"""`python -m promptbayes`: make again what the book shows.

Each command has `--help` with an example.
"""

import argparse
import datetime
import importlib.metadata
import platform
import time

import jax
import numpy as np

from . import networks, predictor
from .tasks import random_coins
from .tuning import PRETRAINING, pretrain

ARCHITECTURES = {"lstm": networks.LSTM(), "transformer": networks.Transformer()}


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m promptbayes", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser(
        "pretrain",
        help="pretrain the networks at the paper's scale",
        epilog="example: python -m promptbayes pretrain lstm --seed 1",
    )
    command.add_argument("networks", nargs="*", help=f"of {', '.join(ARCHITECTURES)}; all if none")
    command.add_argument("--seed", type=int, default=0, help="0 is the network that is shipped")
    command.set_defaults(run=run_pretrain)

    options = parser.parse_args(arguments)
    options.run(options)


def run_pretrain(options) -> None:
    """Pretrain on random coins and write the weights into the package."""
    for name in options.networks or ARCHITECTURES:
        if name not in ARCHITECTURES:
            raise SystemExit(f"`networks` must be of {', '.join(ARCHITECTURES)}, got {name!r}.")
        began = time.perf_counter()
        trained = pretrain(
            ARCHITECTURES[name], random_coins(), PRETRAINING, jax.random.key(options.seed)
        )
        settings = {
            "task": "random coins: Beta(1, 1)",
            "training": vars(PRETRAINING),
            "seed": options.seed,
            "losses": [round(float(loss), 3) for loss in np.asarray(trained.losses[0])],
            **provenance(time.perf_counter() - began),
        }
        path = predictor.pretrained_path(name, options.seed)
        path.parent.mkdir(exist_ok=True)
        predictor.save(path, trained.predictor(0), settings)
        print(f"{path}: {settings['losses'][-1]} nats per sequence after {settings['seconds']} s")


def provenance(seconds: float) -> dict:
    """Where and with what something was computed."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "seconds": round(seconds),
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
