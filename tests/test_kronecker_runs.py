"""Runs of Kronecker sparse Bayesian learning: interrupted, resumed, repeated and saved."""

import functools
import os
import signal
import types

import jax
import numpy as np
import pytest
from models_for_tests import sparse, sparse_problem
from typer.testing import CliRunner

import bayes
from bayes import cli
from bayes.inference.kronecker import climb, outcome, run
from bayes.inference.kronecker.climb import Climb

SBL = bayes.KroneckerSBL
SMALL = sparse_problem(1, sizes=(7, 8, 9), length=9, kept=2)
# A problem this small has few observations a variance, which the verdict says.
few = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


@pytest.fixture
def small_blocks(monkeypatch):
    """Two sweeps, or a hundred draws, in a block."""
    monkeypatch.setattr(climb, "_WORK", 1.0)
    monkeypatch.setattr(run, "_NUMBERS", 100 * SMALL.y.size)


@functools.cache
def whole_run():
    """Blocks of another size have other draws: called where blocks are small alone."""
    return bayes.fit(sparse, SMALL.data, SBL(), seed=4)


def climbing(post):
    """Blocks of the climbs: fifteen of each trial, and those that go on."""
    return 30 + (post.method.info["sweeps"] - 30 + 1) // 2


def stop_at(monkeypatch, block, action):
    """Do something as a run comes to one of its blocks."""
    step, count = Climb.step, iter(range(10**6))

    def counted(self, problem, state):
        if next(count) == block:
            action()
        return step(self, problem, state)

    monkeypatch.setattr(Climb, "step", counted)


class Killed(Exception):
    pass


def kill():
    raise Killed


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@few
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("block", [1, 20, 33, -3])
def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path, block):
    """In the first climb, in the second, in the one that goes on, and among the draws."""
    whole = whole_run()
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, block % (climbing(whole) + 10), kill)
        with pytest.raises(Killed):
            bayes.fit(sparse, SMALL.data, SBL(), seed=4, checkpoint=tmp_path / "c")
    resumed = bayes.fit(sparse, SMALL.data, SBL(), seed=4, checkpoint=tmp_path / "c")
    for site in ("x", "gamma_0", "gamma_2", "noise"):
        np.testing.assert_array_equal(whole.draws(site), resumed.draws(site))
    assert whole.method.info["objective"] == resumed.method.info["objective"]
    firsts = whole.draws("x").values[0][(..., *(s[0] for s in SMALL.support))]
    assert len(np.unique(firsts)) == 1000  # no block repeats another


@pytest.mark.usefixtures("small_blocks")
def test_ctrl_c_in_the_first_climb_keeps_what_it_has(monkeypatch):
    stop_at(monkeypatch, 5, interrupt)
    with pytest.warns(bayes.ConvergenceWarning, match="stopped early: keyboard.*still rising"):
        post = bayes.fit(sparse, SMALL.data, SBL(), seed=0)
    assert post.diagnostics.interrupted == "keyboard"
    assert not post.diagnostics["objective"].passed
    assert post.draws("x").shape == (1, 100, 9, 9, 9)
    assert np.isfinite(post.draws("x")).all()
    assert not any("GiB" in note for note in post.diagnostics.notes)


@few
@pytest.mark.usefixtures("small_blocks")
def test_ctrl_c_among_the_draws_keeps_those_that_are_done(monkeypatch):
    whole = whole_run()
    stop_at(monkeypatch, climbing(whole) + 2, interrupt)
    post = bayes.fit(sparse, SMALL.data, SBL(), seed=4)
    assert post.diagnostics.interrupted == "keyboard"
    assert post.diagnostics["objective"].passed
    np.testing.assert_array_equal(post.draws("x").values, whole.draws("x").values[:, :300])


@pytest.mark.usefixtures("small_blocks")
def test_a_budget_ends_it_and_says_so(monkeypatch):
    """By a clock that jumps an hour in the climb that goes on."""
    clock = [0.0]

    def jump():
        clock[0] += 3600.0

    monkeypatch.setattr("bayes.driver.time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    stop_at(monkeypatch, 32, jump)
    with pytest.warns(bayes.ConvergenceWarning, match="stopped early: budget"):
        post = bayes.fit(sparse, SMALL.data, SBL(), seed=0, budget=60.0)
    assert post.diagnostics.interrupted == "budget"
    assert post.method.info["sweeps"] == 36
    assert post.draws("x").sizes["draw"] == 100
    assert np.isfinite(post.draws("x")).all()


@few
def test_the_seed_makes_the_draws():
    """The climbs from fixed starts are the same for any seed."""
    one, same, other = (bayes.fit(sparse, SMALL.data, SBL(draws=50), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.draws("x"), same.draws("x"))
    np.testing.assert_array_equal(one.draws("gamma_1"), other.draws("gamma_1"))
    assert not np.array_equal(one.draws("x"), other.draws("x"))


@few
@pytest.mark.parametrize("hyper", ["map", bayes.NUTS(chains=2, warmup=50, draws=50)])
def test_a_second_fit_of_the_same_shapes_compiles_nothing(hyper):
    problem = sparse_problem(1, sizes=(5, 6), length=6, kept=2)
    method = SBL(hyper=hyper, draws=50)
    bayes.fit(sparse, problem.data, method, seed=0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        bayes.fit(sparse, {**problem.data, "y": 1.1 * problem.y}, method, seed=1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


@few
def test_draws_are_as_many_as_fit_and_it_is_said(monkeypatch):
    monkeypatch.setattr(outcome, "_BYTES", 8 * SMALL.x.size * 20)
    post = bayes.fit(sparse, SMALL.data, SBL(), seed=0)
    assert post.draws("x").sizes["draw"] == 20
    assert any("20 draws of 1000 are kept" in note for note in post.diagnostics.notes)
    whole = post.moments("x")
    assert whole.attrs["exact"]


def test_progress_counts_draws(capsys):
    bayes.fit(sparse, sparse_problem(0).data, SBL(draws=20), progress=True)
    assert "20/20" in capsys.readouterr().err


# ----------------------------------------------------------------------- files


@few
def test_what_is_known_in_closed_form_survives_a_file(tmp_path):
    post = bayes.fit(sparse, SMALL.data, SBL(draws=400), seed=0)
    post.save(tmp_path / "post.zarr")
    maps = [np.ones((1, 9)), np.eye(9)[:2], np.ones((2, 9))]
    expected = post.linear(*maps)

    whole = bayes.load(tmp_path / "post.zarr", model=sparse)
    for name in ("mean", "sd"):
        np.testing.assert_array_equal(whole.moments("x")[name], post.moments("x")[name])
        np.testing.assert_allclose(whole.linear(*maps)[name], expected[name], rtol=1e-12)
    assert whole.moments("x").attrs["exact"]
    assert whole.linear(*maps).attrs["exact"]
    assert whole.structure.log_evidence == post.structure.log_evidence
    np.testing.assert_array_equal(whole.structure.trace, post.structure.trace)
    np.testing.assert_array_equal(whole.structure.support(), post.structure.support())
    assert whole.method.info == post.method.info

    bare = bayes.load(tmp_path / "post.zarr")
    np.testing.assert_array_equal(bare.moments("x")["mean"], post.moments("x")["mean"])
    assert bare.moments("x").attrs["exact"]
    assert "r_hat" not in bare.summary(var_names=["noise"]).columns
    with pytest.raises(bayes.ModelError, match=r"load\(path, model="):
        _ = bare.structure
    # Without the model from the draws: |z| < 4.5 in Monte Carlo errors, a false alarm in 150 000.
    mapped = bare.linear(*maps)
    assert not mapped.attrs["exact"]
    assert mapped["mean"].shape == (1, 2, 2)
    error = expected["sd"].values / np.sqrt(400) + 1e-12
    assert (abs(mapped["mean"].values - expected["mean"].values) < 4.5 * error).all()


MODULE = """
import sys
sys.path.insert(0, {tests!r})
from models_for_tests import sparse as model, sparse_problem


def data():
    return sparse_problem(0).data
"""


def test_from_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recovery.py").write_text(MODULE.format(tests=os.path.dirname(__file__)))
    command = "fit recovery.py --method kronecker_sbl --set starts=3 --set draws=20 --save p.zarr"
    out = CliRunner().invoke(cli.app, command.split())
    assert out.exit_code == 0, out.output
    assert "kronecker_sbl(" in out.stdout
    assert "starts=3" in out.stdout
    assert "type II" in out.stdout
    assert "r_hat" not in out.stdout
    post = bayes.load("p.zarr")
    assert len(post.method.info["evidence_of_starts"]) == 3
    methods = CliRunner().invoke(cli.app, ["methods"])
    assert "kronecker_sbl" in methods.stdout
