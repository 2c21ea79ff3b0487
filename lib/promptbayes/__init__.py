"""Prompting is conditioning: networks that predict like Bayes, prompts and weights that steer them.

A predictor is a network, its weights and a prefix. Prefix tuning frees the prefix, weight tuning
frees weights, the loop is the same. Regret compares with the source, and the exact Bayes predictor
is the yardstick.
"""

from . import exact, figures, hardware

hardware.use_all_cores()

from .methods import METHODS, HardPrefix, LoRA, Memory, Prefix, Weights  # noqa: E402
from .networks import LSTM, Architecture, Transformer  # noqa: E402
from .predictor import Predictor, initialise, load, load_pretrained, save  # noqa: E402
from .regret import Estimate, cumulative_regret, evaluate, instantaneous_regret  # noqa: E402
from .states import fit_components  # noqa: E402
from .tasks import (  # noqa: E402
    CategoricalMixture,
    DirichletCategorical,
    ExchangeableTask,
    Sequences,
    coin,
    coin_mixture,
    die,
    dirichlet,
    mixture,
    random_coins,
)
from .tuning import (  # noqa: E402
    LIVE,
    LIVE_PRETRAINING,
    LIVE_REPETITIONS,
    PRETRAINING,
    TUNING,
    HardSearch,
    Training,
    Tuned,
    pretrain,
    search_hard_prefix,
    tune,
)

__all__ = [
    "LIVE",
    "LIVE_PRETRAINING",
    "LIVE_REPETITIONS",
    "LSTM",
    "METHODS",
    "PRETRAINING",
    "TUNING",
    "Architecture",
    "CategoricalMixture",
    "DirichletCategorical",
    "Estimate",
    "ExchangeableTask",
    "HardPrefix",
    "HardSearch",
    "LoRA",
    "Memory",
    "Predictor",
    "Prefix",
    "Sequences",
    "Training",
    "Transformer",
    "Tuned",
    "Weights",
    "coin",
    "coin_mixture",
    "cumulative_regret",
    "die",
    "dirichlet",
    "evaluate",
    "exact",
    "figures",
    "fit_components",
    "initialise",
    "instantaneous_regret",
    "load",
    "load_pretrained",
    "mixture",
    "pretrain",
    "random_coins",
    "save",
    "search_hard_prefix",
    "tune",
]
