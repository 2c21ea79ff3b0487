"""The best unembedding on frozen states, by scipy: how far from it does the tuning loop stop?

Of both networks and both targets: logistic regression of TargetBayes' probabilities on the torso's
outputs over 16,384 sequences (2048 on a coin, where the optimum is known), scored on 4096 fresh
ones, beside the stored repetitions of UnembedWT; and the best unembeddings within some distance of
the pretrained one. `python book/studies/unembedding_optimum.py` computes it again, in about five
minutes.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import networks, results, study
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

TARGETS = {"single-coin": pb.coin(0.2), "two-coin-mixture": pb.coin_mixture([0.2, 0.8])}
NUM_TRAINING = {"single-coin": 2048, "two-coin-mixture": 16384}
NUM_FRESH, NUM_PATH, LENGTH = 4096, 2048, 50
RIDGES = np.geomspace(1e-6, 1e2, 9)  # of the path, nats


@jax.jit
def _outputs(base, tokens):
    network = networks.bind(base.network, base.params)
    shared = network.share(base.prefix, tokens.shape[1], base.memory)
    rest = network.read(tokens[:, :-1], shared).outputs
    first = jnp.broadcast_to(shared.carried.output, (len(tokens), 1, rest.shape[-1]))
    return jnp.concatenate([first, rest], axis=1)


def features(base, tokens):
    """What the unembedding reads before each token, and a one: [sequence, time, width + 1]."""
    chunks = np.split(np.asarray(tokens), len(tokens) // 512)
    outputs = np.concatenate([np.asarray(_outputs(base, c)) for c in chunks]).astype(np.float64)
    return np.concatenate([outputs, np.ones((*outputs.shape[:2], 1))], axis=2)


def weights(predictor):
    """All of an unembedding that counts for two tokens: column 1 - column 0, the bias last."""
    unembedding = predictor.params["unembedding"]
    rows = np.concatenate([unembedding["kernel"], unembedding["bias"][None]])
    return (rows[:, 1] - rows[:, 0]).astype(np.float64)


def probabilities(target, tokens):
    """TargetBayes' probability of a one before each token, float64 [sequence, time]."""
    log_probs = np.asarray(target.predict(tokens), np.float64)
    return np.exp(log_probs - np.logaddexp(*log_probs.T).T[..., None])[..., 1]


def faults(x, w, q):
    """KL(TargetBayes || read-out) of each sequence, nats; w [feature] and x end in the bias."""
    z = x @ w
    terms = np.logaddexp(0, z) - q * z + q * np.log(q) + (1 - q) * np.log1p(-q)
    return terms.sum(axis=1)


def slope(x, w, q):
    """Gradient of the mean fault with respect to w."""
    errors = 1 / (1 + np.exp(-(x @ w))) - q
    return x.reshape(-1, x.shape[-1]).T @ errors.ravel() / len(x)


def curvature(x, w):
    """Hessian of the mean fault: positive semi-definite, whatever w is."""
    flat = x.reshape(-1, x.shape[-1])
    p = 1 / (1 + np.exp(-(flat @ w)))
    return flat.T @ (flat * (p * (1 - p))[:, None]) / len(x)


def optimum(x, q, w, least=1e-8):
    """L-BFGS, in coordinates in which the curvature is one, set anew a few times.

    Returns w, the norm of the gradient there, the Newton decrement (what a quadratic model has
    left, nats) and the eigenvalues of the Hessian.
    """
    for _ in range(8):
        hessian, gradient = curvature(x, w), slope(x, w, q)
        ridge = 1e-13 * np.trace(hessian)
        root = np.linalg.cholesky(hessian + ridge * np.eye(len(w)))
        left = np.sum(solve_triangular(root, gradient, lower=True) ** 2) / 2
        print(f"  fault {faults(x, w, q).mean():.6f}, left {left:.1e}", file=sys.stderr, flush=True)
        if left < least:
            break

        def loss(v, root=root, w=w):
            at = w + solve_triangular(root.T, v)
            return faults(x, at, q).mean(), solve_triangular(root, slope(x, at, q), lower=True)

        options = {"maxiter": 15, "ftol": 0, "gtol": 1e-9}
        v = minimize(loss, np.zeros(len(w)), jac=True, method="L-BFGS-B", options=options).x
        w = w + solve_triangular(root.T, v)
    return w, np.linalg.norm(gradient), left, np.linalg.eigvalsh(hessian)


def path(x, q, start):
    """The best weights for fault + ridge / 2 |w - start|^2, by Newton steps, [ridge, feature]."""
    found, w = [], start
    for ridge in RIDGES[::-1]:
        for _ in range(30):
            gradient = slope(x, w, q) + ridge * (w - start)
            step = np.linalg.solve(curvature(x, w) + ridge * np.eye(len(w)), gradient)

            def cost(at, ridge=ridge):
                return faults(x, at, q).mean() + ridge / 2 * np.sum((at - start) ** 2)

            size, now, drop = 1.0, cost(w), gradient @ step
            while cost(w - size * step) > now - 0.1 * size * drop and size > 1e-3:
                size /= 2
            w = w - size * step
            if drop < 1e-6:
                break
        found.append(w)
    return np.stack(found[::-1])


def log_odds(q):
    """The logarithm of q / (1 - q)."""
    return np.log(q) - np.log1p(-q)


def difference(tokens):
    """Ones minus zeros seen before each token, [sequence, time]."""
    signs = 2.0 * np.asarray(tokens) - 1
    return np.cumsum(signs, axis=1) - signs


def share_explained(x, y, fresh_x, fresh_y):
    """R^2 on fresh sequences of y's least-squares fit by x, and the fit there."""
    wide = x.shape[-1]
    w = np.linalg.lstsq(x.reshape(-1, wide), y.ravel(), rcond=None)[0]
    fit = fresh_x @ w
    return 1 - np.mean((fresh_y - fit) ** 2) / fresh_y.var(), fit


def one(setting, network):
    """All numbers of one network on one target."""
    target, base = TARGETS[setting], pb.load_pretrained(network)
    training = target.sample(jax.random.key(1301), NUM_TRAINING[setting], LENGTH).tokens
    fresh = target.sample(jax.random.key(1302), NUM_FRESH, LENGTH).tokens
    x, fresh_x = features(base, training), features(base, fresh)
    q, fresh_q = probabilities(target, training), probabilities(target, fresh)
    log_probs = np.asarray(base(fresh[:8]))  # the outputs are what the unembedding reads
    assert np.abs(log_probs[..., 1] - log_probs[..., 0] - fresh_x[:8] @ weights(base)).max() < 1e-5
    w, gradient, left, eigenvalues = optimum(x, q, weights(base))
    stored = results.load_cell(setting, network, "UnembedWT").theta.values.astype(np.float64)
    loop = [np.append(t[2:].reshape(-1, 2) @ [-1, 1], t[1] - t[0]) for t in stored]
    near = path(x[:NUM_PATH], q[:NUM_PATH], weights(base))
    on_fresh = np.stack([faults(fresh_x, v, fresh_q) for v in (weights(base), w, *loop, *near)])
    mean, error = on_fresh.mean(axis=1), on_fresh.std(axis=1, ddof=1) / np.sqrt(NUM_FRESH)
    ahead = on_fresh[2 : 2 + len(loop)] - on_fresh[1]
    on_training = faults(x, w, q)
    found = {
        "weights": ("feature", w),
        "gradient": gradient,
        "left": left,
        "eigenvalues": ("direction", eigenvalues),
        "training": on_training.mean(),
        "training_error": on_training.std(ddof=1) / np.sqrt(len(x)),
        "untuned": mean[0],
        "fresh": mean[1],
        "fresh_error": error[1],
        "loop": ("repetition", mean[2 : 2 + len(loop)]),
        "loop_error": ("repetition", error[2 : 2 + len(loop)]),
        "gap": ("repetition", ahead.mean(axis=1)),
        "gap_error": ("repetition", ahead.std(axis=1, ddof=1) / np.sqrt(NUM_FRESH)),
        "loop_distance": ("repetition", np.linalg.norm(np.array(loop) - weights(base), axis=1)),
        "distance": np.linalg.norm(w - weights(base)),
        "path": ("ridge", mean[2 + len(loop) :]),
        "path_distance": ("ridge", np.linalg.norm(near - weights(base), axis=1)),
    }
    if setting == "two-coin-mixture":
        part, fresh_d = x[:NUM_PATH], difference(fresh)
        r2, _ = share_explained(part, log_odds(q[:NUM_PATH]), fresh_x, log_odds(fresh_q))
        r2_d, fit = share_explained(part, difference(training[:NUM_PATH]), fresh_x, fresh_d)
        two = 0.2 + 0.6 / (1 + np.exp(-np.log(4) * fit))  # TargetBayes' curve over the difference
        behind = faults(log_odds(two)[..., None], np.ones(1), fresh_q)
        found |= {"r2_log_odds": r2, "r2_difference": r2_d, "two_steps": behind.mean()}
        found |= {"two_steps_error": behind.std(ddof=1) / np.sqrt(NUM_FRESH)}
        found |= {"residual": ("step", np.sqrt(np.mean((fresh_d - fit) ** 2, axis=0)))}
    return xr.Dataset(found, coords={"ridge": RIDGES})


def compute():
    """Both networks on both targets."""
    rows = []
    for setting in TARGETS:
        for network in ("lstm", "transformer"):
            print(setting, network, file=sys.stderr, flush=True)
            rows.append(one(setting, network).expand_dims(setting=[setting], network=[network]))
    found = xr.merge(rows, join="outer", compat="no_conflicts")
    fitted = [*NUM_TRAINING.values()]
    about = f"{fitted} sequences to fit, {NUM_FRESH} fresh ones, {NUM_PATH} for the path"
    return found.assign_attrs(sequences=about)


if __name__ == "__main__":
    print(study.keep("unembedding_optimum", compute))
