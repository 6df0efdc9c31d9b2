"""What a warm-up window teaches: from draws that are where the posterior is."""

import numpy as np

from bayes.inference.metric import identity_metric
from bayes.inference.windows import (
    copy_chains,
    empty_window,
    learn_metric,
    metric_of,
    metric_state,
    next_window,
    remember,
)

SCALES = np.array([0.1, 1.0, 10.0])


def state_with(rng, chains=4, draws=90):
    x = rng.normal(size=(chains, draws, 3)) * SCALES
    density = -0.5 * np.square(x / SCALES).sum(axis=2)
    state = {**empty_window(chains, 3), **metric_state(identity_metric(3)), "left": np.asarray(0)}
    ones = np.ones((chains, draws))
    outputs = {
        "position": x,
        "gradient": -x / SCALES**2,
        "stats": {"lp": density, "step_size": ones, "acceptance_rate": ones},
    }
    return remember(state, outputs, draws)


def learned(state, far=(False,) * 4):
    return learn_metric(state, "diagonal", np.array(far), may_settle=True)


def test_the_metric_is_that_of_the_draws(rng):
    metric, settled = learned(state_with(rng))
    np.testing.assert_allclose(metric.scale, SCALES, rtol=1e-9)
    assert not settled  # what the window ran with was another one
    again = {**state_with(rng), **metric_state(metric)}
    assert learned(again)[1]
    np.testing.assert_array_equal(metric_of(again).scale, metric.scale)


def test_what_chains_passed_on_their_way_is_not_learned_from(rng):
    state = state_with(rng)
    state["window_positions"][1, :60] += 1e6
    state["window_gradients"][1, :60] *= 1e9
    state["window_density"][1, :60] -= 1e12
    metric, settled = learned(state)
    np.testing.assert_allclose(metric.scale, SCALES, rtol=1e-9)
    assert not settled


def test_a_far_chain_is_not_learned_from(rng):
    state = state_with(rng)
    state["window_positions"][2] *= 50.0
    metric, settled = learned(state, (False, False, True, False))
    np.testing.assert_allclose(metric.scale, SCALES, rtol=1e-9)
    assert not settled


def test_gradients_that_are_not_finite_are_left_out(rng):
    state = state_with(rng)
    state["window_gradients"][0, 50:60] = np.nan
    np.testing.assert_allclose(learned(state)[0].scale, SCALES, rtol=1e-9)


def test_a_window_keeps_the_one_before_it_and_no_more(rng):
    first = state_with(rng, draws=30)
    second = {**first, **next_window(first)}
    assert second["window_positions"].shape[1] == 30
    assert int(second["window_old"]) == 30
    grown = {k: np.concatenate([v, v], axis=1) for k, v in second.items() if np.ndim(v) >= 2}
    third = next_window({**second, **grown, "metric_scale": np.ones(3)})
    assert third["window_positions"].shape[1] == 30


def test_copies_leave_the_state_they_come_from_alone():
    state = {
        "x": np.arange(8.0).reshape(4, 2),
        "lp": np.arange(4.0),
        "gradient": np.zeros((4, 2)),
        "copies": np.zeros(4, int),
    }
    lost = np.array([False, True, False, True])
    new = copy_chains(state, lost)
    np.testing.assert_array_equal(new["x"][lost], state["x"][[0, 2]])
    np.testing.assert_array_equal(state["x"], np.arange(8.0).reshape(4, 2))
    assert new["copies"].tolist() == [0, 1, 0, 1]
    assert state["copies"].sum() == 0
