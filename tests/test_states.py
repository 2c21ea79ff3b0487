"""Principal components against the eigenvectors of the covariance, and on states made for it."""

import numpy as np
import pytest
from conftest import roundings, small_predictor
from promptbayes import fit_components


@pytest.fixture
def cloud():
    """States [sequence, step, feature] with variances that differ from direction to direction."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 15, 5)) @ (np.diag([5.0, 3.0, 2.0, 1.0, 0.5]) @ rotation(rng)) + 7.0


def rotation(rng):
    return np.linalg.qr(rng.normal(size=(5, 5)))[0]


def test_components_are_eigenvectors_of_the_covariance(cloud):
    fitted = fit_components(cloud, 3)
    flat = cloud.reshape(-1, 5)
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    # Directions are as exact as rounding over the gaps between the variances, which are above 1.
    tolerance = {"atol": roundings(1e4, np.float64), "rtol": 0}
    np.testing.assert_allclose(fitted.mean, flat.mean(axis=0), **tolerance)
    np.testing.assert_allclose(fitted.scale, np.sqrt(values[::-1][:3]), **tolerance)
    for direction, vector in zip(fitted.directions, vectors.T[::-1]):
        np.testing.assert_allclose(np.abs(direction @ vector), 1, **tolerance)
        assert direction[np.abs(direction).argmax()] > 0  # the sign is fixed


def test_projections_are_white(cloud):
    projected = fit_components(cloud, 4).project(cloud)
    assert projected.shape == (20, 15, 4)
    flat = projected.reshape(-1, 4)
    tolerance = {"atol": roundings(1e4, np.float64), "rtol": 0}
    np.testing.assert_allclose(flat.mean(axis=0), 0, **tolerance)
    np.testing.assert_allclose(np.cov(flat.T, bias=True), np.eye(4), **tolerance)


def test_all_components_together_lose_nothing(cloud):
    fitted = fit_components(cloud, 5)
    again = fitted.project(cloud) * fitted.scale @ fitted.directions + fitted.mean
    np.testing.assert_allclose(again, cloud, atol=roundings(1e4, np.float64), rtol=0)


def test_components_do_not_depend_on_the_order_of_the_states(cloud):
    shuffled = np.random.default_rng(1).permutation(cloud.reshape(-1, 5))
    for one, other in zip(fit_components(cloud), fit_components(shuffled)):
        np.testing.assert_allclose(one, other, atol=roundings(1e4, np.float64), rtol=0)


def test_states_on_a_line_have_one_component():
    line = np.outer(np.arange(-2, 3), [3.0, -4.0]) + 1
    fitted = fit_components(line, 1)
    # Five points at distance 5: standard deviation 5 sqrt(2); the largest entry is made positive.
    np.testing.assert_allclose(fitted.directions, [[-0.6, 0.8]], rtol=roundings(10, np.float64))
    expected = np.arange(2, -3, -1)[:, None] / np.sqrt(2)
    np.testing.assert_allclose(fitted.project(line), expected, atol=roundings(100, np.float64))
    with pytest.raises(ValueError, match="`num_components` must be at most 1"):
        fit_components(line, 2)


def test_states_of_networks_fit_and_project(small):
    tokens = np.random.default_rng(2).integers(0, 2, size=(6, 7))
    prompted = small.with_tokens([0, 1])
    states = prompted.states(tokens)
    fitted = fit_components(states.content)
    assert fitted.project(states.content).shape == (6, 7, 2)
    assert fitted.project(states.prefix).shape == (2, 2)
    assert fitted.project(states.start).shape == (2,)


@pytest.mark.parametrize(
    ("states", "num_components", "error", "message"),
    [
        (np.ones(3), 1, ValueError, r"`states` must be \[..., feature\], got shape \(3,\)"),
        (np.eye(3), 0, ValueError, "`num_components` must be between 1 and 3 .*, got 0"),
        (np.eye(3), 4, ValueError, "`num_components` must be between 1 and 3 .*, got 4"),
        (np.eye(3), 3, ValueError, "`num_components` must be at most 2"),  # minus the mean
        (np.eye(3), 1.0, TypeError, "`num_components` must be an int, got 1.0"),
        (np.ones((4, 3)), 1, ValueError, "`num_components` must be at most 0"),
        (np.full((4, 3), np.nan), 1, ValueError, "`states` must be finite"),
        (np.zeros((0, 3)), 1, ValueError, "`num_components` must be between 1 and 0"),
    ],
)
def test_what_has_no_components_is_refused(states, num_components, error, message):
    with pytest.raises(error, match=message):
        fit_components(states, num_components)


def test_states_of_another_network_are_refused():
    fitted = fit_components(small_predictor("LSTM").states([[0, 1, 1, 0]]).content)
    with pytest.raises(ValueError, match=r"`states` must be \[..., 8\] .* got shape \(4, 7\)"):
        fitted.project(np.zeros((4, 7)))
