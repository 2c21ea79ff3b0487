"""Internal states of a predictor and the few directions in which they move (Fig. 2, A7)."""

from typing import NamedTuple

import numpy as np

from .tasks import check_int


class Components(NamedTuple):
    """Principal components of states: a centre, directions, and a scale for each."""

    mean: np.ndarray  #: [feature]
    directions: np.ndarray  #: [component, feature], orthonormal
    scale: np.ndarray  #: [component]: standard deviation of the states along each direction

    def project(self, states) -> np.ndarray:
        """States [..., feature] on the components, whitened: [..., component]; else ValueError."""
        states = np.asarray(states, np.float64)
        if states.shape[-1] != len(self.mean):
            raise ValueError(
                f"`states` must be [..., {len(self.mean)}] like those the components were "
                f"fitted to, got shape {states.shape}."
            )
        return (states - self.mean) @ self.directions.T / self.scale


def fit_components(states, num_components: int = 2) -> Components:
    """Principal components of internal states, over all sequences and steps (Fig. A7, top).

    What they were fitted to has mean zero and variance one along each. The largest entry of each
    direction is positive.

    Args:
        states: [..., feature], such as `predictor.states(tokens).content`.
        num_components: how many to keep, largest variance first.

    Raises:
        TypeError, ValueError: `num_components` is no int, or more than there are features, states
            or directions in which these vary; states that are not finite.

    Example:
        >>> line = np.outer(np.arange(5.0), [3.0, 4.0])
        >>> fit_components(line, 1).directions.round(3)
        array([[0.6, 0.8]])
    """
    states = np.asarray(states, np.float64)
    if states.ndim < 2:
        raise ValueError(f"`states` must be [..., feature], got shape {states.shape}.")
    if not np.all(np.isfinite(states)):
        raise ValueError("`states` must be finite.")
    flat = states.reshape(-1, states.shape[-1])
    num_components = check_int("num_components", num_components, -np.inf)
    if not 1 <= num_components <= min(flat.shape):
        raise ValueError(
            f"`num_components` must be between 1 and {min(flat.shape)} for states of shape "
            f"{states.shape}, got {num_components}."
        )
    mean = flat.mean(axis=0)
    _, singular, directions = np.linalg.svd(flat - mean, full_matrices=False)
    # Below this, a singular value is rounding and its direction arbitrary.
    rank = int(np.sum(singular > singular[0] * max(flat.shape) * np.finfo(float).eps))
    if num_components > rank:
        raise ValueError(
            f"`num_components` must be at most {rank}, for `states` vary in no more directions, "
            f"got {num_components}."
        )
    directions = directions[:num_components]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    return Components(
        mean, directions * np.sign(largest), singular[:num_components] / np.sqrt(len(flat))
    )
