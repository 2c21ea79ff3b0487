"""LoRA on the Transformer: what rank 1, 2, 4, 8 buy on two coins, and which kernels matter.

Live scale, two repetitions. Beside the ranks: rank 4 on query and key alone and on value and output
alone; and FullWT, also with its change of the four kernels cut down to a rank. Of every run the
regret and the singular values of the four kernels' changes.
"""

import sys
from dataclasses import dataclass

import jax
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import study

KERNELS = ("query", "key", "value", "out")


@dataclass(frozen=True)
class SomeLoRA:
    """LoRA on some of the four kernels."""

    rank: int
    kernels: tuple[str, ...]

    def check(self, base):
        """Nothing to check here."""

    def init(self, key, base):
        """A and B of these kernels."""
        theta = pb.LoRA(self.rank).init(key, base)
        return {block: {k: ab[k] for k in self.kernels} for block, ab in theta.items()}

    def apply(self, base, theta):
        """W + A B for these kernels."""
        return pb.LoRA(self.rank).apply(base, theta)


RANKS = [1, 2, 4, 8]
CUTS = [0, *RANKS]
METHODS = {
    **{f"rank {rank}": pb.LoRA(rank) for rank in RANKS},
    "rank 4, query and key": SomeLoRA(4, ("query", "key")),
    "rank 4, value and out": SomeLoRA(4, ("value", "out")),
    "FullWT": pb.METHODS["FullWT"],
}


def decomposed(base: pb.Predictor, tuned: pb.Predictor) -> list:
    """U, singular values and V of the change of each kernel; the network has one block."""
    before, after = (p.params["torso"]["blocks"][0]["attention"] for p in (base, tuned))
    both = [(np.float64(after[k]["kernel"]), np.float64(before[k]["kernel"])) for k in KERNELS]
    return [np.linalg.svd(new - old) for new, old in both]


def cut(base: pb.Predictor, tuned: pb.Predictor, rank: int) -> pb.Predictor:
    """`tuned`, but of each kernel's change only the `rank` largest parts."""
    attention = dict(tuned.params["torso"]["blocks"][0]["attention"])
    before = base.params["torso"]["blocks"][0]["attention"]
    for k, (u, s, v) in zip(KERNELS, decomposed(base, tuned), strict=True):
        change = np.float32(u[:, :rank] * s[:rank] @ v[:rank])
        attention[k] = {"kernel": before[k]["kernel"] + change}
    blocks = {0: tuned.params["torso"]["blocks"][0] | {"attention": attention}}
    return tuned._replace(params=tuned.params | {"torso": {"blocks": blocks}})


def compute() -> xr.Dataset:
    """Tune and evaluate."""
    base = pb.load_pretrained("transformer")
    target = pb.coin_mixture([0.2, 0.8])
    fresh = target.sample(jax.random.key(77), study.NUM_SEQUENCES, pb.LIVE.length)
    regret, error, singular, parameters = [], [], [], []
    for name, method in METHODS.items():
        live = study.run(name, method=method, bases={"transformer": base})
        regret.append(live.regret["transformer"].mean)
        error.append(live.regret["transformer"].standard_error)
        tuned = live.predictors["transformer"]
        singular.append([[s for _, s, _ in decomposed(base, one)] for one in tuned])
        parameters.append(study.num_parameters(method, base))
        print(name, parameters[-1], regret[-1], error[-1], file=sys.stderr, flush=True)
    # The last method is FullWT.
    short = [[study.regret_on(cut(base, one, r), fresh).mean for r in CUTS] for one in tuned]
    runs = "variant", "repetition"
    return xr.Dataset(
        {
            "regret": (runs, np.array(regret)),
            "error": (runs, np.array(error)),
            "parameters": ("variant", parameters),
            "cut": (("repetition", "kept_rank"), np.array(short)),
            "singular": ((*runs, "kernel", "index"), np.array(singular, np.float32)),
        },
        {"variant": list(METHODS), "kept_rank": CUTS, "kernel": list(KERNELS)},
        {
            "training": str(pb.LIVE),
            "sequences": study.NUM_SEQUENCES,
            "untuned": float(live.untuned["transformer"].mean),
        },
    )


if __name__ == "__main__":
    study.keep("lora_ranks", compute)
