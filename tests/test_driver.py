"""Progress, budget, interruption: what the driver gives every method."""

import os
import signal
import threading

import numpy as np
import pytest
from models_for_tests import SCHOOLS_DATA, schools

import bayes

# So careful that no transition diverges, however long it runs.
LONG = bayes.NUTS(chains=2, warmup=200, draws=10**6, target_accept=0.995)
FIT = {"seed": 0, "reparam": "auto"}


@pytest.fixture(scope="module")
def compiled():
    """Compile first, so that times below are of sampling."""
    quick = bayes.NUTS(chains=2, warmup=100, draws=1000, target_accept=0.9)
    bayes.fit(schools, SCHOOLS_DATA, quick, **FIT)


@pytest.mark.usefixtures("compiled")
class TestBudget:
    def test_the_run_ends_and_says_so(self):
        post = bayes.fit(schools, SCHOOLS_DATA, LONG, budget=3.0, **FIT)
        assert post.diagnostics.interrupted == "budget"
        assert "stopped early: budget" in post.diagnostics.verdict
        assert 3.0 < post.method.seconds < 20.0
        assert 0 < post.data["posterior"].sizes["draw"] < 10**6

    def test_without_a_draw_it_is_an_error_with_advice(self):
        with pytest.raises(bayes.NoDrawsError, match=r"before its first draw.*checkpoint="):
            bayes.fit(schools, SCHOOLS_DATA, LONG, budget=1e-6, **FIT)

    def test_a_budget_and_a_checkpoint_go_on_from_each_other(self, tmp_path):
        with pytest.raises(bayes.NoDrawsError, match="to go on"):
            bayes.fit(schools, SCHOOLS_DATA, LONG, budget=1e-6, checkpoint=tmp_path / "c", **FIT)
        method = bayes.NUTS(chains=2, warmup=100, draws=1500, target_accept=0.9)
        whole = bayes.fit(schools, SCHOOLS_DATA, method, **FIT)
        post = None
        for _ in range(100):
            try:
                post = bayes.fit(
                    schools, SCHOOLS_DATA, method, budget=0.05, checkpoint=tmp_path / "d", **FIT
                )
            except bayes.NoDrawsError:
                continue
            except bayes.ConvergenceWarning:
                continue
            if post.diagnostics.interrupted is None:
                break
        assert post is not None
        assert post.diagnostics.interrupted is None
        np.testing.assert_array_equal(post.draws("theta"), whole.draws("theta"))

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf"), "60", True])
    def test_a_senseless_budget_is_refused(self, budget):
        with pytest.raises(ValueError, match="budget"):
            bayes.fit(schools, SCHOOLS_DATA, LONG, budget=budget, **FIT)


@pytest.mark.usefixtures("compiled")
class TestInterrupt:
    def test_ctrl_c_returns_what_is_done(self):
        handler = signal.getsignal(signal.SIGINT)
        timer = threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        post = bayes.fit(schools, SCHOOLS_DATA, LONG, **FIT)
        assert post.diagnostics.interrupted == "keyboard"
        assert 0 < post.data["posterior"].sizes["draw"] < 10**6
        assert np.isfinite(post.draws("theta")).all()
        assert signal.getsignal(signal.SIGINT) is handler

    def test_what_was_interrupted_is_marked_in_the_file(self, tmp_path):
        timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        post = bayes.fit(schools, SCHOOLS_DATA, LONG, **FIT)
        post.save(tmp_path / "p.zarr")
        assert bayes.load(tmp_path / "p.zarr").diagnostics.interrupted == "keyboard"


def test_fit_works_in_a_thread():
    found = []
    quick = bayes.NUTS(chains=2, warmup=100, draws=1000, target_accept=0.9)
    thread = threading.Thread(
        target=lambda: found.append(bayes.fit(schools, SCHOOLS_DATA, quick, **FIT))
    )
    thread.start()
    thread.join()
    assert found[0].data["posterior"].sizes["draw"] == 1000


def test_progress_is_shown_when_asked_and_silent_off_a_terminal(capsys):
    quick = bayes.NUTS(chains=2, warmup=100, draws=1000, target_accept=0.9)
    bayes.fit(schools, SCHOOLS_DATA, quick, **FIT)
    assert capsys.readouterr() == ("", "")
    bayes.fit(schools, SCHOOLS_DATA, quick, progress=True, **FIT)
    out, err = capsys.readouterr()
    assert out == ""
    assert "nuts" in err
    assert "sample" in err


@pytest.mark.parametrize("seed", [-1, 1.5, "one", 2**64, True])
def test_a_senseless_seed_is_refused(unchecked, seed):
    with pytest.raises(bayes.SettingsError, match="seed"):
        bayes.fit(schools, SCHOOLS_DATA, LONG, seed=seed)


def test_refine_is_for_approximations():
    with pytest.raises(bayes.SettingsError, match="approximations"):
        bayes.fit(schools, SCHOOLS_DATA, LONG, refine="psis")
