"""Prompting is conditioning: networks that predict like Bayes, prompts and weights that steer them.

A predictor is a network, its weights and a prefix. Prefix tuning frees the prefix, weight tuning
frees weights, the loop is the same. Regret compares with the source, and the exact Bayes predictor
is the yardstick.
"""

from . import exact, figures, hardware

__version__ = "0.1.0"  # CITATION.cff and CHANGELOG.md name it too

hardware.use_all_cores()

from .methods import METHODS, HardPrefix, LoRA, Memory, Method, Prefix, Weights  # noqa: E402
from .networks import LSTM, Architecture, Reading, Torso, Transformer  # noqa: E402
from .predictor import Predictor, initialise, load, load_pretrained, save  # noqa: E402
from .regret import (  # noqa: E402
    Estimate,
    SequentialPredictor,
    cumulative_regret,
    evaluate,
    instantaneous_regret,
    kl_to,
)
from .states import fit_components  # noqa: E402
from .tasks import (  # noqa: E402
    BayesTask,
    CategoricalMixture,
    DirichletCategorical,
    ExchangeableTask,
    PromptableTask,
    Sequences,
    Task,
    coin,
    coin_mixture,
    die,
    dirichlet,
    mixture,
    pytree_method,
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
    resume,
    search_hard_prefix,
    tune,
)

# fmt: off
__all__ = [
    "LIVE", "LIVE_PRETRAINING", "LIVE_REPETITIONS", "LSTM", "METHODS", "PRETRAINING", "TUNING",
    "Architecture", "BayesTask", "CategoricalMixture", "DirichletCategorical", "Estimate",
    "ExchangeableTask", "HardPrefix", "HardSearch", "LoRA", "Memory", "Method", "Predictor",
    "Prefix", "PromptableTask", "Reading", "Sequences", "SequentialPredictor", "Task", "Torso",
    "Training", "Transformer", "Tuned", "Weights", "coin", "coin_mixture", "cumulative_regret",
    "die", "dirichlet", "evaluate", "exact", "figures", "fit_components", "initialise",
    "instantaneous_regret", "kl_to", "load", "load_pretrained", "mixture", "pretrain",
    "pytree_method", "random_coins", "resume", "save", "search_hard_prefix", "tune",
]
