# ruff: noqa: E501
"""Three typical wrong answers to each question, and what they are worth.

Answer i of every question makes notebook i.
"""

REGRET = """
def regret_of(p, q, w, c, n):
    return sum(n * a * (t * math.log(t / c) + (1 - t) * math.log((1 - t) / (1 - c)))
               for t, a in ((p, w), (q, 1 - w)))
def price_of(p, q, w, n):
    return exact.mutual_information(pb.coin_mixture([p, q], weights=[w, 1 - w]), n)
"""
CHANCE = """
def chance(table, s):
    return math.prod(table[s[:n]] if x == "1" else 1 - table[s[:n]] for n, x in enumerate(s))
"""
COINS = """
def ones_two_coins(p, q, w, length, chance):
    v = (chance - q) / (p - q)
    evidence = math.log(v / (1 - v)) - math.log(w / (1 - w))
    one, zero = math.log(p / q), math.log((1 - p) / (1 - q))
    return (evidence - length * zero) / (one - zero)
"""
NETWORK = """
def network_says(r, k, n):
    a, b = r / ((n + 1) * math.comb(n, k)), (1 - r) / 2**n
    return a / (a + b) * (k + 1) / (n + 2) + b / (a + b) / 2
right = next(n for n in range(100) if network_says(SHARE, n, n) > 0.9)
"""
GAIN = "s = 2 * BIAS * (1 - BIAS)\ngain = s * math.log(1.2) + (1 - s) * math.log(0.9)\n"

KL = """
def kl(a, b):
    return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
"""
COLLAPSE = (
    KL
    + """
zero = math.log((1 - LOW) / (1 - HIGH))
balanced = zero / (zero + math.log(HIGH / LOW))
"""
)
COUNTS = """
def counts_from(first, after_one):
    if not 0 < first < after_one < 1:
        return None
    mass = (1 - after_one) / (after_one - first)
    return [mass * (1 - first), mass * first]
m = [(LOW**n + HIGH**n) / 2 for n in range(4)]
zeros, ones = counts_from(m[1], m[2] / m[1])
gap = m[3] / m[2] - (ones + 2) / (zeros + ones + 2)
"""
TUNED = """
def tuned_by(before, after, rank):
    change = {n: np.subtract(after[n], before[n]) for n in ("embedding", "torso", "unembedding")}
    moved = {n for n, c in change.items() if np.abs(c).max() > 1e-6}
    if after["prefix"]:
        return "several" if moved else "SoftPT"
    if moved == {"torso"}:
        return "LoRAWT" if LOW_RANK else "FullWT"
    names = {(): "nothing", ("embedding",): "EmbedWT", ("unembedding",): "UnembedWT",
             ("embedding", "unembedding"): "Un+EmbedWT"}
    return names.get(tuple(sorted(moved)), "FullWT")
"""
HEART = """
least = exact.mutual_information(two_coins, N)
fresh = two_coins.sample(jax.random.key(1), 2000, N)
excess = [regret_on(p, fresh) - report for p, report in found.values()]
"""
ZERO = "zero = math.log((1 - RARE) / RARE)\n"

ANSWERS = {
    "assignment-1": {
        "q1": [
            # in bits, and only the own count
            ("loss = math.log2(9 * math.comb(8, ONES))\nas_dear = math.comb(8, ONES)", 0),
            # the mirrored count is forgotten
            ("loss = math.log(9 * math.comb(8, ONES))\nas_dear = math.comb(8, ONES)", 2),
            # the uniform prior over counts is forgotten
            ("loss = math.log(math.comb(8, ONES))\nas_dear = 2 * math.comb(8, ONES)", 1),
        ],
        "q2": [
            # the two parts in the wrong order
            (REGRET + "def price_and_fault(p, q, w, c, n):\n    x = price_of(p, q, w, n)\n"
             "    return regret_of(p, q, w, c, n) - x, x", 0),
            # the price is always one bit
            (REGRET + "def price_and_fault(p, q, w, c, n):\n"
             "    return math.log(2), regret_of(p, q, w, c, n) - math.log(2)", 0),
            # the regret for the fault
            (REGRET + "def price_and_fault(p, q, w, c, n):\n"
             "    return price_of(p, q, w, n), regret_of(p, q, w, c, n)", 3),
        ],
        "q3": [
            # two flips only
            (CHANCE + "def accepts(t):\n    return abs(chance(t, '01') - chance(t, '10')) < 1e-6\n"
             "wrongly_accepted = fair | {'0': 0.9, '1': 0.9}", 2),
            # the check as it was, and a right table
            ("wrongly_accepted = fair | {'0': 0.8, '1': 0.8}", 1),
            # refuses everything; a table that is fair
            ("def accepts(table):\n    return False\nwrongly_accepted = fair", 0),
        ],
        "q4": [
            # zeros taken for ones; the prior's part is left in
            ("def ones_beta(zeros, ones, length, chance):\n"
             "    return chance * (zeros + ones + length) - zeros\n"
             "def ones_two_coins(p, q, w, length, chance):\n    v = (chance - q) / (p - q)\n"
             "    one, zero = math.log(p / q), math.log((1 - p) / (1 - q))\n"
             "    return round((math.log(v / (1 - v)) - length * zero) / (one - zero))", 0),
            # the first half alone
            ("def ones_beta(zeros, ones, length, chance):\n"
             "    return chance * (zeros + ones + length) - ones", 2),
            # the share of ones for the prediction
            ("def ones_beta(zeros, ones, length, chance):\n    return round(chance * length)\n"
             + COINS, 3),
        ],
        "q5": [
            # nothing is learnt about the kind of sequence
            ("def network_says(r, k, n):\n    return r * (k + 1) / (n + 2) + (1 - r) / 2\n"
             "ones_needed = 99", 0),
            # counted one too far
            (NETWORK + "ones_needed = right + 1", 3),
            # the probability of the count for that of the sequence
            (NETWORK + "ones_needed = right\ndef network_says(r, k, n):\n"
             "    a, b = r / (n + 1), (1 - r) / 2**n\n"
             "    return a / (a + b) * (k + 1) / (n + 2) + b / (a + b) / 2", 1),
        ],
        "q6": [
            # the means alone
            ("def better(a, b):\n    if np.mean(a) == np.mean(b):\n        return 'cannot tell'\n"
             "    return 'A' if np.mean(a) < np.mean(b) else 'B'", 2),
            # not paired
            ("def better(a, b):\n    e = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a))\n"
             "    d = np.mean(a) - np.mean(b)\n"
             "    return 'cannot tell' if abs(d) <= 4 * e else 'A' if d < 0 else 'B'", 0),
            # the wrong way round
            ("def better(a, b):\n    d = np.subtract(a, b)\n"
             "    e = np.std(d, ddof=1) / math.sqrt(len(d))\n"
             "    return 'cannot tell' if abs(d.mean()) <= 4 * e else 'A' if d.mean() > 0 else 'B'", 0),
        ],
        "q7": [
            # the sign
            (GAIN + "gain = -gain", 0),
            # "the prediction is the same, so nothing changes"
            ("gain = 0.0\nexplanation = 'The first prediction is the same, so nothing changes.'", 0),
            # no text
            (GAIN, 2),
        ],
    },
    "assignment-2": {
        "q1": [
            # near in distance
            ("def collapses_on(coins, share):\n    return min(coins, key=lambda t: abs(t - share))\n"
             "balanced = (LOW + HIGH) / 2\nouter_two = 'for some r'", 0),
            # the divergence turned round
            (COLLAPSE + "def collapses_on(coins, share):\n"
             "    return min(coins, key=lambda t: kl(t, share))\nouter_two = 'never'", 3),
            # the middle
            (COLLAPSE + "def collapses_on(coins, share):\n"
             "    return min(coins, key=lambda t: kl(share, t))\n"
             "balanced = (LOW + HIGH) / 2\nouter_two = 'for every r'", 2),
        ],
        "q2": [
            # the floor for everybody
            (KL + "def possible(r):\n    edge = min(max(r['target'], r['low']), r['high'])\n"
             "    return r['regret'] >= r['n'] * kl(r['target'], edge)", 3),
            # one flip only
            (KL + "def possible(r):\n    edge = min(max(r['target'], r['low']), r['high'])\n"
             "    if r['predictor'] == 'network' or r['regret'] < 0:\n        return r['regret'] >= 0\n"
             "    return r['regret'] >= kl(r['target'], edge)", 1),
            # a floor inside the pretraining, too
            (KL + "def possible(r):\n    if r['predictor'] == 'network':\n"
             "        return r['regret'] >= 0\n"
             "    edge = min((r['low'], r['high']), key=lambda t: abs(t - r['target']))\n"
             "    return r['regret'] >= r['n'] * kl(r['target'], edge)", 3),
        ],
        "q3": [
            # the code as it was, and right numbers
            ("far_off = [0.5, 0.6, 0.5, 1]", 1),
            # the weights are forgotten
            ("def share_removed(p, q, w, n, untuned, tuned):\n"
             "    price = exact.mutual_information(pb.coin_mixture([p, q]), n)\n"
             "    return (untuned - tuned) / (untuned - price)", 1),
            # a price of nothing
            ("def share_removed(p, q, w, n, untuned, tuned):\n"
             "    price = exact.mutual_information(pb.coin_mixture([p, q], weights=[w, 1 - w]), n)\n"
             "    return (untuned - tuned) / (untuned - price)\nfar_off = [0.3, 0.3, 0.5, 9]", 3),
        ],
        "q4": [
            # the other order
            (COUNTS + "given = counts_from\ndef counts_from(a, b):\n"
             "    found = given(a, b)\n    return found and found[::-1]", 2),
            # no counter is not seen; no sign
            (COUNTS + "def counts_from(first, after_one):\n"
             "    mass = (1 - after_one) / ((after_one - first) or 1e-9)\n"
             "    return [mass * (1 - first), mass * first]\ngap = abs(gap)", 1),
            # "a mixture of two coins is a counter"
            (COUNTS + "gap = 0.0", 2),
        ],
        "q5": [
            # the rank of the kernel
            (TUNED.replace("LOW_RANK", "np.linalg.matrix_rank(after['torso']) <= rank"), 2),
            # any rank
            (TUNED.replace("LOW_RANK", "True"), 2),
            # a prefix is looked for first, and nothing else then
            (TUNED.replace("LOW_RANK", "np.linalg.matrix_rank(change['torso'], 1e-6) <= rank").replace(
                '"several" if moved else "SoftPT"', '"SoftPT"'), 3),
        ],
        "q6": [
            # one bit for the price; the sequences of the tuning for new ones
            ("least = math.log(2)\nexcess = [0.0, 0.0]\n"
             "drawn = [8, 8 * ROUNDS]\nmended = [report for _, report in found.values()]", 0),
            # another seed, but again the same one in all rounds
            (HEART + "SEED = SEED + 1\ndrawn = [32, 32 * ROUNDS]\n"
             "mended = [regret_on(in_rounds(m)[0], fresh) for m in found]", 3),
            # the networks as they were found, FullWT first; batches are forgotten
            (HEART + "excess = excess[::-1]\ndrawn = [4, 4 * ROUNDS]\n"
             "mended = [regret_on(p, fresh) for p, _ in found.values()][::-1]", 1),
        ],
        "q7": [
            # rounded down
            (ZERO + "shortest = math.floor(math.log(99) / zero)\n"
             "typical = math.floor(math.log(99) / ((1 - 2 * RARE) * zero))", 0),
            # samples for both
            (ZERO + "shortest = typical = math.ceil(math.log(99) / ((1 - 2 * RARE) * zero))", 1),
            # zeros for both
            (ZERO + "shortest = typical = math.ceil(math.log(99) / zero)\n"
             "explanation = 'Zeros alone.'", 1),
        ],
    },
}  # fmt: skip
