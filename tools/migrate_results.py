"""Bring stored results into the form in which a file says what its experiment is.

    python tools/migrate_results.py [FOLDER]

Without FOLDER, those of the package. Nothing is computed again: every number is compared with the
one before, names and coordinates are added. Files that have the new form are left as they are, so
it can run as often as one likes.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from promptbayes import experiments, results
from promptbayes.predictor import initialise

OLD = ("setting", "network", "method", "network_seed", "training")


def main() -> None:
    """Bring every file below the folder up to date, and say how many."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else results.FOLDER
    paths = sorted(folder.rglob("*.nc"))
    changed = sum(migrate(path) for path in paths)
    print(f"{folder}: {changed} of {len(paths)} files brought into the new form")


def migrate(path: Path) -> bool:
    """Whether the file was of the old form; then it is of the new one now."""
    with xr.open_dataset(path, engine="scipy") as opened:
        old = opened.load()
    if "experiment" in old.attrs:
        return False
    setting, network, method, seed, training = (old.attrs[name] for name in OLD)
    chosen = experiments.SETTINGS[setting]
    if training != str(chosen.training):
        raise ValueError(f"{path} was tuned with {training}, the setting says {chosen.training}.")
    if old.evaluation.values.tolist() != list(chosen.tasks):
        raise ValueError(f"{path} was evaluated on {old.evaluation.values}, not {[*chosen.tasks]}.")
    renamed = old.rename_vars(prompt="best_prompt") if method == "HardPT" else old
    variables: dict[str, Any] = {
        str(name): (variable.dims, variable.values)
        for name, variable in renamed.variables.items()
        if name not in renamed.dims
    }
    for axis in {"tuning_step", "pretraining_step"} & old.sizes.keys():
        variables[axis] = axis, 5.5 + 10 * np.arange(old.sizes[axis])  # middles of ten steps
    if "theta" in variables:
        how, architecture = chosen.methods[method], chosen.architecture(network)
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda: how.init(key, initialise(architecture, key)))
        dims, values = variables["theta"]
        variables["theta"] = dims, values, {"shapes": experiments.theta_shapes(shapes)}
    attributes = experiments.cell_attributes(setting, network, method, int(seed))
    attributes |= {name: value for name, value in old.attrs.items() if name not in OLD}
    new = experiments.labelled(
        variables, attributes, repetitions=old.repetition.values, chosen=chosen
    )
    results.write(path, new)
    stored = results.read(path)
    for name, variable in old.variables.items():
        there = stored["best_prompt" if name == "prompt" else name].values
        if variable.dtype.kind == "f":  # packed again with the same steps, to float64's rounding
            np.testing.assert_allclose(there, variable.values, rtol=1e-12)
        else:
            np.testing.assert_array_equal(there, variable.values)
    return True


if __name__ == "__main__":
    main()
