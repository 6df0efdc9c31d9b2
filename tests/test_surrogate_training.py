"""Training on fresh simulations: it learns, stops when asked, and goes on to the bit."""

import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayes
from bayes.checkpoint import Checkpoint
from bayes.surrogates import training
from bayes.surrogates.training import Lesson, Schedule, train

STEPS = 100


class Line(eqx.Module):
    slope: jax.Array
    bias: jax.Array


START = Line(np.zeros(2, np.float32), np.zeros((), np.float32))
TRUTH = np.array([1.5, -0.5], np.float32)


def draw(key):
    return jax.random.normal(key, (32, 2))


def loss(network, x):
    return jnp.square(x @ network.slope + network.bias - x @ TRUTH - 2.0).mean()


def trained(losses=(loss,), steps=STEPS, seed=0, draws=draw, **options):
    lessons = [Lesson(draws, one) for one in losses]
    return train(START, lessons, Schedule(steps, 0.1, 0.9), jax.random.key(seed), **options)


def same(a, b):
    leaves = zip(jax.tree.leaves(a.network), jax.tree.leaves(b.network), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def identity(name):
    from bayes.fingerprint import versions

    return {
        "model": {"sites": [], "sampled": [], "log_density": [0.0]},
        "data": {}, "method": name, "settings": {}, "seed": 0,
        "versions": versions(),
    }  # fmt: skip


class StopsAt:
    """A request to stop at the n-th look."""

    def __init__(self, looks):
        self._looks = looks

    def __call__(self):
        return self

    def listening(self):
        import contextlib

        return contextlib.nullcontext()

    @property
    def asked(self):
        self._looks -= 1
        return self._looks < 0


def test_the_loss_falls_and_the_truth_is_learned():
    found = trained(steps=300)
    assert found.loss[-1] < 0.01 * found.loss[0]
    np.testing.assert_allclose(found.network.slope, TRUTH, atol=0.02)
    assert float(found.network.bias) == pytest.approx(2.0, abs=0.02)
    assert (found.steps, found.interrupted) == (300, None)
    assert len(found.loss) == 300 / 20


def test_the_rate_rises_and_falls():
    schedule = Schedule(1000, 0.1)
    rates = [schedule.rate(p) for p in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.01
    assert max(rates) <= 0.1
    assert np.argmax(rates) == pytest.approx(5, abs=1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_the_same_seed_gives_the_same_bits():
    assert same(trained(), trained())
    assert not same(trained(), trained(seed=1))


def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path, monkeypatch):
    """Two losses in turn, so that the turn is resumed, too."""

    def other(network, x):
        return 2.0 * loss(network, x)

    whole = trained((loss, other))
    with monkeypatch.context() as patch:
        patch.setattr(training, "Stop", StopsAt(3))
        first = trained((loss, other), checkpoint=Checkpoint(tmp_path / "c", identity("a")))
    assert (first.steps, first.interrupted) == (60, "keyboard")
    assert not same(first, whole)
    second = trained((loss, other), checkpoint=Checkpoint(tmp_path / "c", identity("a")))
    assert (second.steps, second.interrupted) == (STEPS, None)
    assert same(second, whole)
    assert second.loss == whole.loss
    assert second.seconds >= first.seconds
    again = trained((loss, other), checkpoint=Checkpoint(tmp_path / "c", identity("a")))
    assert same(again, whole)


def test_ctrl_c_keeps_what_is_learned():
    calls = []

    def hook(value):
        calls.append(value)
        if len(calls) == 30:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupting(network, x):
        value = loss(network, x)
        jax.debug.callback(hook, jax.lax.stop_gradient(value))
        return value

    before = signal.getsignal(signal.SIGINT)
    found = trained((interrupting,), steps=100_000)
    assert found.interrupted == "keyboard"
    assert 0 < found.steps < 100_000
    assert np.any(np.asarray(found.network.slope) != 0)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_budget_ends_the_run_and_its_schedule(monkeypatch):
    """By a clock of which every look takes a second; the rate is then near its end."""
    clock = iter(np.arange(1e6))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    rates = []
    whole = Schedule.rate
    monkeypatch.setattr(Schedule, "rate", lambda s, p: rates.append(p) or whole(s, p))
    found = trained(steps=10**6, budget=60.0)
    assert found.interrupted == "budget"
    assert 0 < found.steps < 10**4
    assert rates[-1] > 0.9
    assert np.all(np.diff(rates) > 0)


def test_a_run_without_a_block_has_learned_nothing():
    with pytest.raises(bayes.NoDrawsError, match="before its first steps"):
        trained(budget=1e-9)


def test_losses_that_are_not_numbers_change_no_weights():
    def with_flag(key):
        return draw(key), jax.random.bernoulli(key, 0.3)

    def at_times(network, batch):
        x, bad = batch
        return jnp.where(bad, jnp.nan, 1.0) * loss(network, x)

    found = trained((at_times,), steps=300, draws=with_flag)
    np.testing.assert_allclose(found.network.slope, TRUTH, atol=0.05)
    assert np.all(np.isfinite(found.loss))
    never = trained((lambda network, x: jnp.nan * loss(network, x),))
    assert same(never, trained()._replace(network=START))
    assert np.all(np.isnan(never.loss))


def test_the_progress_line_is_for_terminals(capsys):
    trained(steps=20)
    assert capsys.readouterr().err == ""
    trained(steps=20, progress=True, name="dt")
    assert "dt" in capsys.readouterr().err
