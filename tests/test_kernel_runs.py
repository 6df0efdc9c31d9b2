"""Runs of NumPyro's kernels: blocks, crashes, interruptions and compilation."""

import dataclasses
import functools
import os
import signal
import threading
import time

import jax
import pytest
from kernels_for_tests import (
    MEAN,
    MIXTURE_DATA,
    NORMAL_DATA,
    PRECISION,
    UNSETTLED,
    Y,
    gibbs,
    mixed,
    mixture,
    slicing,
    z_score,
)
from models_for_tests import normal_mean
from numpyro.infer import NUTS, BarkerMH

import bayes
from bayes.inference import pacing


class Killed(Exception):
    """Ends a run as a crash does."""


@UNSETTLED
@pytest.mark.parametrize("kernel", [BarkerMH, slicing, gibbs, mixed])
def test_draws_depend_neither_on_blocks_nor_on_a_crash(kernel, tmp_path, monkeypatch):
    method = bayes.NumPyroKernel(kernel, chains=4, warmup=40, draws=60)
    discrete = kernel in (gibbs, mixed)
    model, data = (mixture, MIXTURE_DATA) if discrete else (normal_mean, NORMAL_DATA)
    run = functools.partial(bayes.fit, model, data, method, seed=5)
    whole = run()

    monkeypatch.setattr(pacing, "BLOCK_SECONDS", 1e-9)  # one iteration a block
    left, step = [55], bayes.NumPyroKernel.step

    def fragile(self, problem, state):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return step(self, problem, state)

    monkeypatch.setattr(bayes.NumPyroKernel, "step", fragile)
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "c")
    left[0] = 1000
    cut = run(checkpoint=tmp_path / "c")
    assert left[0] < 1000
    for group in ("posterior", "sample_stats"):
        assert cut.data[group].to_dataset().identical(whole.data[group].to_dataset())


@UNSETTLED
def test_another_kernel_does_not_resume_a_run(tmp_path):
    short = functools.partial(bayes.NumPyroKernel, chains=2, warmup=20, draws=20)
    bayes.fit(normal_mean, NORMAL_DATA, short(NUTS), checkpoint=tmp_path / "c")
    other = short(lambda model: NUTS(model, target_accept_prob=0.9))
    with pytest.raises(bayes.FileError, match="settings differ"):
        bayes.fit(normal_mean, NORMAL_DATA, other, checkpoint=tmp_path / "c")


@UNSETTLED
def test_ctrl_c_keeps_what_is_done(monkeypatch):
    def interrupt():
        time.sleep(2.0)
        os.kill(os.getpid(), signal.SIGINT)

    method = bayes.NumPyroKernel(BarkerMH, chains=2, warmup=50, draws=10**8)
    # Compiled before the signal comes.
    bayes.fit(normal_mean, NORMAL_DATA, dataclasses.replace(method, draws=20))
    thread = threading.Thread(target=interrupt)
    thread.start()
    post = bayes.fit(normal_mean, NORMAL_DATA, method)
    thread.join()
    assert post.diagnostics.interrupted == "keyboard"
    assert post.draws("mu").shape[1] > 0


@UNSETTLED
def test_other_data_of_the_same_shapes_compile_nothing(caplog):
    def kernel(model):
        return BarkerMH(model)

    method = bayes.NumPyroKernel(kernel, chains=2, warmup=200, draws=1000)
    bayes.fit(normal_mean, NORMAL_DATA, method, seed=0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        post = bayes.fit(normal_mean, {"n": 5, "y": Y + 1}, method, seed=0)
    compiled = [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]
    assert not [m for m in compiled if "_block" in m or "_start" in m]
    assert abs(z_score(post.draws("mu").values, MEAN + 5 / 1.5**2 / PRECISION)) < 4.5
