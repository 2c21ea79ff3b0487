"""The book's figures: arrays in, matplotlib figures out.

One visual language for all pages: a method, a baseline or a network has the same colour, marker
and line style everywhere (`METHOD_STYLE`). They survive colour blindness, black-and-white print and
the dark theme, which inverts a drawing and turns its hues back (the tests measure it).
Every function returns its figure, of which pyplot does not know, so that a notebook shows it once:
as the last expression of its cell. Style settings hold inside a function only. Figures are so
narrow (`style.WIDTH`) that their text can be read on a phone.
"""

from .bars import headline_bars, regret_bar_panels, regret_bars, regret_split
from .components import prefix_trajectories, state_components
from .curves import lines, loss_curves, regret_curves
from .maps import attention_maps, prediction_maps, prediction_scatter, regret_heatmap
from .parameters import parameters_and_regret, sorted_hard_prefixes, what_moves
from .picture import Picture
from .posteriors import posterior_densities, posterior_flips, prompt_posteriors
from .stored import Stored
from .style import GROUPS, MARKS, METHOD_STYLE, NATS, NETWORKS, Stranger, Style

# fmt: off
__all__ = [
    "GROUPS", "MARKS", "METHOD_STYLE", "NATS", "NETWORKS", "Picture", "Stored", "Stranger",
    "Style", "attention_maps", "headline_bars", "lines", "loss_curves", "parameters_and_regret",
    "posterior_densities", "posterior_flips", "prediction_maps", "prediction_scatter",
    "prefix_trajectories", "prompt_posteriors", "regret_bar_panels", "regret_bars",
    "regret_curves", "regret_heatmap", "regret_split", "sorted_hard_prefixes",
    "state_components", "what_moves",
]
