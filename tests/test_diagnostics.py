"""The verdict on planted pathologies."""

import numpy as np
import pytest
import xarray as xr

from bayes.diagnostics.checks import Diagnostics, diagnose
from bayes.diagnostics.convergence import constant_elements


def tree(rng, chains=4, draws=1000, **changes):
    """A posterior without fault, and what a test changes in it."""
    values = {"mu": rng.normal(size=(chains, draws)), "x": rng.normal(size=(chains, draws, 3))}
    stats = {
        "lp": rng.normal(size=(chains, draws)),
        "energy": rng.normal(size=(chains, draws)),
        "diverging": np.zeros((chains, draws), bool),
        "tree_depth": np.full((chains, draws), 3),
    }
    for name, value in changes.items():
        (values if name in values or name == "fixed" else stats)[name] = value
    dims = ("chain", "draw")
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {
                    k: ((*dims, *(f"{k}_{i}" for i in range(v.ndim - 2))), v)
                    for k, v in values.items()
                }
            ),
            "sample_stats": xr.Dataset({k: (dims, v) for k, v in stats.items()}),
        }
    )


INFO = {"max_tree_depth": 10}


def failed(verdict):
    return {c.name for c in verdict.failed}


def test_a_good_posterior_is_ok(rng):
    verdict = diagnose(tree(rng), INFO)
    assert verdict.ok
    assert verdict.verdict.startswith("ok")
    assert all(np.isfinite(c.value) for c in verdict.checks)


def test_one_chain_is_not_assessable(rng):
    verdict = diagnose(tree(rng, chains=1), INFO)
    assert "chains" in failed(verdict)
    assert "not assessable" in verdict["chains"].advice


@pytest.mark.parametrize("draws", [1, 3, 30])
def test_too_few_draws(rng, draws):
    verdict = diagnose(tree(rng, draws=draws), INFO)
    assert {"ess_bulk", "ess_tail"} <= failed(verdict)


def test_a_chain_in_another_mode_is_named(rng):
    mu = rng.normal(size=(4, 1000))
    mu[2] += 30
    verdict = diagnose(tree(rng, mu=mu), INFO)
    assert {"rhat", "stuck_chains"} <= failed(verdict)
    assert "chain 2" in verdict["stuck_chains"].advice
    assert "mu" in verdict["rhat"].advice


def test_chains_split_over_two_modes_are_named_as_groups(rng):
    mu = rng.normal(size=(4, 1000))
    mu[[0, 3]] += 12
    verdict = diagnose(tree(rng, mu=mu), INFO)
    assert "chains 1, 2 sit apart" in verdict["stuck_chains"].advice or (
        "chains 0, 3 sit apart" in verdict["stuck_chains"].advice
    )
    assert "several modes" in verdict["stuck_chains"].advice


def test_agreement_of_copied_chains_proves_nothing(rng):
    one = {**INFO, "copies": [0, 1, 0, 0]}
    three = {**INFO, "copies": [0, 1, 1, 1]}
    assert diagnose(tree(rng), one).ok
    assert "chains 1, 2, 3 never left" in diagnose(tree(rng), three)["stuck_chains"].advice


def test_a_standard_deviation_that_is_not_settled(rng):
    """Student t with 1.5 degrees of freedom has no variance: R-hat and ESS do not see it."""
    heavy = tree(rng, mu=rng.standard_t(1.5, size=(4, 1000)))
    verdict = diagnose(heavy, INFO)
    assert failed(verdict) == {"sd_error"}
    assert "mu" in verdict["sd_error"].advice
    # What is derived from the sampled sites may be as heavy as it likes.
    assert diagnose(heavy, {**INFO, "sampled": ["x"]}).ok
    light = diagnose(tree(rng), INFO)["sd_error"].value
    assert light == pytest.approx(np.sqrt(0.5 / 4000), rel=0.2)


def test_a_chain_that_does_not_move_is_stuck(rng):
    mu = rng.normal(size=(4, 1000))
    mu[1] = 0.3
    verdict = diagnose(tree(rng, mu=mu), INFO)
    assert verdict["rhat"].value == np.inf
    assert verdict["ess_bulk"].value == 0


def test_modes_that_only_the_log_density_shows(rng):
    lp = rng.normal(size=(4, 1000))
    lp[3] -= 50
    assert "rhat" in failed(diagnose(tree(rng, lp=lp), INFO))


def test_what_is_constant_by_construction_is_noted_not_judged(rng):
    verdict = diagnose(tree(rng, fixed=np.ones((4, 1000))), INFO)
    assert verdict.ok
    assert any("constant by construction" in note for note in verdict.notes)
    assert constant_elements(np.ones((4, 10, 2))).all()


def test_draws_that_are_not_finite(rng):
    mu = rng.normal(size=(4, 1000))
    mu[0, 5] = np.inf
    verdict = diagnose(tree(rng, mu=mu), {**INFO, "non_finite": 1})
    assert {"finite", "rhat", "ess_bulk"} <= failed(verdict)


def test_a_slow_chain(rng):
    walk = np.cumsum(rng.normal(size=(4, 1000)), axis=1)
    verdict = diagnose(tree(rng, mu=walk), INFO)
    assert {"rhat", "ess_bulk"} <= failed(verdict)
    assert "x as many" in verdict["ess_bulk"].advice


def test_divergences_and_their_advice(rng):
    diverging = np.zeros((4, 1000), bool)
    diverging[1, 7] = True
    verdict = diagnose(tree(rng, diverging=diverging), INFO, centred=("theta",))
    assert failed(verdict) == {"divergences"}
    assert "reparam='auto'" in verdict["divergences"].advice
    hint = {**INFO, "starts": {"nan_gradient": 3, "nan": 0, "candidates": 80}}
    verdict = diagnose(tree(rng, diverging=diverging), hint)
    assert "jnp.where" in verdict["divergences"].advice
    assert "target_accept" in verdict["divergences"].advice


def test_slow_energy(rng):
    energy = np.cumsum(rng.normal(size=(4, 1000)), axis=1)
    assert "ebfmi" in failed(diagnose(tree(rng, energy=energy), INFO))


def test_trees_that_are_cut(rng):
    depth = np.full((4, 1000), 10)
    assert "tree_depth" in failed(diagnose(tree(rng, tree_depth=depth), INFO))


def test_observations_without_variance(rng):
    assert "data" in failed(diagnose(tree(rng), {**INFO, "frozen": ["y"]}))


def test_to_json_and_back(rng):
    verdict = diagnose(tree(rng), INFO, interrupted="budget")
    again = Diagnostics.from_dict(verdict.to_dict())
    assert again == verdict
    assert "stopped early" in str(again)
    with pytest.raises(KeyError, match="there are"):
        verdict["nothing"]


def test_false_alarms_are_rare():
    """Independent draws, 50 parameters: the whole verdict errs in at most 3 of 40 runs."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        alarms += not diagnose(tree(rng, x=rng.normal(size=(4, 1000, 50))), INFO).ok
    assert alarms <= 3
