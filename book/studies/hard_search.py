"""Hard prompts of 12 and 25 tokens: exhaustive search where it can be done, greedy where not.

All 4,096 prompts of 12 tokens are scored on both networks, on sequences of the coins 0.2 and 0.8;
what two coins lose is the mean of both. At 25 tokens a coordinate search flips one token at a time,
from several starts, and stops when no single flip helps. What was found is scored on fresh
sequences, as the exact regret of the ideal predictor after the same prompt plus what the network
loses more than it.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import exact, study
from promptbayes.regret import log_loss

LENGTH, HALF, FRESH = 50, 16, 1024  # predictions; sequences a coin and half; fresh ones
SEARCHED = 64  # sequences a coin in the search at 25 tokens
TARGETS = {"one coin": pb.coin(0.2), "two coins": pb.coin_mixture([0.2, 0.8])}
NETWORKS = ("lstm", "transformer")
IDEAL = pb.random_coins()
STARTS = ("zeros", "ones", "random", "random again")


@partial(jax.jit, static_argnames="length")
def prompt_losses(base, prompts, tokens, length=LENGTH):
    """Log loss of each sequence after each prompt, [prompt, sequence] nats."""

    def after(prompt):
        prefix = base.embed(jax.nn.one_hot(prompt, 2))
        predictor = base._replace(prefix=prefix).prepare(length)
        return log_loss(predictor(tokens), tokens).sum(axis=1)

    return jax.lax.map(after, prompts)


def above_oracle(base, prompts, sequences):
    """What each prompt loses more than who knows the coin, [prompt, sequence] nats."""
    losses = prompt_losses(base, jnp.asarray(prompts), sequences.tokens)
    return np.asarray(losses) - oracle(sequences)


def oracle(sequences):
    """What who knows the coin loses, [sequence] nats."""
    return np.asarray(log_loss(sequences.log_source, sequences.tokens)).sum(axis=1)


def ideal(prompt, sequences):
    """The same of the ideal predictor after one prompt, [sequence] nats."""
    task = IDEAL.posterior(np.asarray(prompt))
    return pb.evaluate(task.predict, sequences).sum(axis=1) - oracle(sequences)


def exhaustive(base, coins, prompts, name):
    """Mean of each prompt over each coin's two halves, [coin, half, prompt] nats."""
    together = jax.tree.map(lambda *each: jnp.concatenate(each), *coins)
    means = []
    for block in np.split(prompts, 64):
        losses = above_oracle(base, block, together)
        means.append(losses.reshape(len(block), len(coins), 2, HALF).mean(axis=3))
        print(f"{name}: {64 * len(means)} of 4096 prompts", file=sys.stderr)
    return np.concatenate(means).transpose(1, 2, 0)


def greedy(base, prompt, sequences):
    """Flip single tokens, left to right and round again, until 25 in a row do not help.

    Returns the prompt, its regret on these sequences, and the regret after every evaluation.
    """
    prompt = np.array(prompt)
    best = above_oracle(base, prompt[None], sequences).mean()
    trace, place, idle = [best], 0, 0
    while idle < len(prompt):
        tried = prompt.copy()
        tried[place] = 1 - tried[place]
        value = above_oracle(base, tried[None], sequences).mean()
        place, idle = (place + 1) % len(prompt), idle + 1
        if value < best:
            prompt, best, idle = tried, value, 0
        trace.append(best)
    return prompt, best, trace


def fresh_regret(base, prompt, target, sequences):
    """The ideal predictor's exact regret + what the network loses more, and the error of that."""
    prompt = np.asarray(prompt, int)
    more = above_oracle(base, prompt[None], sequences)[0] - ideal(prompt, sequences)
    known = exact.cumulative_regret(IDEAL.posterior(prompt), target, LENGTH)
    return known + more.mean(), more.std(ddof=1) / np.sqrt(len(more))


def compute() -> xr.Dataset:
    """Both searches on both networks."""
    coins = [pb.coin(0.2), pb.coin(0.8)]
    drawn = [coin.sample(jax.random.key(i), 2 * HALF, LENGTH) for i, coin in enumerate(coins)]
    prompts = np.indices((2,) * 12).reshape(12, -1).T
    rng = np.random.default_rng(25)
    starts = np.stack([np.zeros(25, int), np.ones(25, int), *rng.integers(0, 2, (2, 25))])
    searched = {"one coin": coins[0].sample(jax.random.key(100), SEARCHED, LENGTH),
                "two coins": TARGETS["two coins"].sample(
                    jax.random.key(101), 2 * SEARCHED, LENGTH)}  # fmt: skip
    fresh = {name: target.sample(jax.random.key(200 + i), FRESH, LENGTH)
             for i, (name, target) in enumerate(TARGETS.items())}  # fmt: skip
    of_ideal = [[ideal(np.repeat([0, 1], [12 - k, k]), coin) for k in range(13)] for coin in drawn]
    of_ideal = np.reshape(of_ideal, (2, 13, 2, HALF)).mean(axis=3).transpose(0, 2, 1)
    shape = len(NETWORKS), len(TARGETS)
    found = np.zeros((*shape, len(STARTS), 25), np.int8)
    regret, after, error = np.zeros((3, *shape, len(STARTS)))
    trace = np.full((*shape, len(STARTS), 400), np.nan)
    cases = ("none", "best of 12", "ideal counts, 12", "ideal counts, 25")
    scored, scored_error = np.zeros((2, *shape, len(cases)))
    table = np.zeros((len(NETWORKS), 2, 2, 4096))
    for i, name in enumerate(NETWORKS):
        base = pb.load_pretrained(name)
        table[i] = exhaustive(base, drawn, prompts, name)
        for j, (label, target) in enumerate(TARGETS.items()):
            for k, start in enumerate(starts):
                found[i, j, k], regret[i, j, k], steps = greedy(base, start, searched[label])
                trace[i, j, k, : len(steps)] = steps
                after[i, j, k], error[i, j, k] = fresh_regret(
                    base, found[i, j, k], target, fresh[label]
                )
                print(f"{name}, {label}, from {STARTS[k]}: {len(steps)} prompts, "
                      f"{found[i, j, k].sum()} ones", file=sys.stderr)  # fmt: skip
            means = table[i, 0] if label == "one coin" else table[i].mean(axis=0)
            winner = prompts[means.mean(axis=0).argmin()]
            plain = []  # the ideal predictor's best counts, zeros first
            for length in (12, 25):
                counts = exact.hard_prompts(IDEAL, target, length, LENGTH).best[0]
                plain.append(np.repeat([0, 1], counts))
            for k, prompt in enumerate([[], winner, *plain]):
                scored[i, j, k], scored_error[i, j, k] = fresh_regret(
                    base, prompt, target, fresh[label]
                )
    per_start = "network", "target", "start"
    values = {
        "regret": (("network", "coin", "half", "prompt"), table.astype(np.float32)),
        "ideal_regret": (("coin", "half", "ones"), of_ideal.astype(np.float32)),
        "greedy_prompt": ((*per_start, "place"), found),
        "greedy_regret": (per_start, regret),
        "greedy_fresh": (per_start, after),
        "greedy_fresh_error": (per_start, error),
        "greedy_trace": ((*per_start, "evaluation"), trace.astype(np.float32)),
        "fresh": (("network", "target", "case"), scored),
        "fresh_error": (("network", "target", "case"), scored_error),
    }
    last = int(np.isfinite(trace).any(axis=(0, 1, 2)).sum())
    return xr.Dataset(
        values,
        {"network": list(NETWORKS), "target": list(TARGETS), "coin": [0.2, 0.8],
         "ones": np.arange(13), "start": list(STARTS), "case": list(cases)},
        {"sequences": f"12 tokens: {HALF} of each coin and half; 25 tokens: {SEARCHED} of one "
         f"coin, {2 * SEARCHED} of two; fresh: {FRESH}"},
    ).isel(evaluation=slice(last))  # fmt: skip


if __name__ == "__main__":
    study.keep("hard_search", compute)
