"""Fit every posterior of a folder of reference posteriors with default settings.

    python benchmarks/posteriordb.py --data DIR [--only NAME ...] [--seed N] [--peer]

DIR holds ``harness.py`` (``names()``, ``load(name)``, ``check(name, draws)``) and the posteriors. A
posterior is right when all means lie within 4 combined standard errors of the reference, all
standard deviations within 10 % or 4 of their own Monte Carlo errors, R-hat is below 1.01 and every
effective sample size at least 400.
The verdict must agree: a fit that is not right must not be called ok. ``--peer`` runs NumPyro's
NUTS as shipped beside it (4 chains, 1000 + 1000, float64), judged by the same rule; seconds count
compilation on both sides, with bayes' persistent compilation cache off.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import time
import warnings
from types import ModuleType

import jax
import numpy as np
from judging import against_references, convergence, is_right, load_harness
from numpyro.infer import MCMC, NUTS

import bayes


def judge(harness: ModuleType, name: str, draws: dict[str, np.ndarray]) -> tuple[dict, bool]:
    """The figures of a fit, and whether it is right."""
    figures = {**against_references(harness, name, draws), **convergence(draws)}
    return figures, bool(is_right(figures))


def show(name: str, figures: dict, stats: dict, seconds: float, tail: str) -> None:
    """Print one line of the table."""
    print(
        f"{name:<42}{figures['p']:>5}{figures['z']:>7.1f}{figures['sd']:>7.3f}"
        f"{figures['rhat']:>8.4f}{figures['bulk']:>7.0f}{figures['tail']:>7.0f}"
        f"{int(stats['diverging'].sum()):>5}{float(stats['n_steps'].mean()):>7.1f}"
        f"{seconds:>8.1f}  {tail}",
        flush=True,
    )


def run_bayes(
    harness: ModuleType, name: str, seed: int, reparam: str | None
) -> tuple[bool, bool, float]:
    """Fit one posterior with defaults: whether it is right, whether it is called ok, seconds."""
    model, data, _ = harness.load(name)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        post = bayes.fit(model, data, seed=seed, reparam=reparam)
    seconds = time.perf_counter() - begin
    draws = {str(k): v.values for k, v in post.data["posterior"].data_vars.items()}
    figures, right = judge(harness, name, draws)
    stats = {k: post.data["sample_stats"][k].values for k in ("diverging", "n_steps")}
    ok = post.diagnostics.ok
    verdict = "ok" if ok else "not ok: " + ", ".join(c.name for c in post.diagnostics.failed)
    show(name, figures, stats, seconds, f"{'right' if right else 'WRONG':<6}{verdict}")
    return right, ok, seconds


def run_numpyro(harness: ModuleType, name: str, seed: int) -> tuple[bool, float]:
    """NumPyro's NUTS as shipped on the same posterior: whether it is right, and seconds."""
    model, data, _ = harness.load(name)
    with jax.enable_x64(True):
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mcmc = MCMC(
                NUTS(model), num_warmup=1000, num_samples=1000, num_chains=4, progress_bar=False
            )
            mcmc.run(jax.random.key(seed), **data, extra_fields=("diverging", "num_steps"))
        seconds = time.perf_counter() - begin
        draws = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
        fields = {k: np.asarray(v) for k, v in mcmc.get_extra_fields().items()}
    figures, right = judge(harness, name, draws)
    stats = {"diverging": fields["diverging"], "n_steps": fields["num_steps"]}
    show("  numpyro as shipped", figures, stats, seconds, "right" if right else "WRONG")
    return right, seconds


def main() -> None:
    """Run all and print a table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reparam", choices=["auto"])
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    if options.peer:
        os.environ["BAYES_CACHE"] = ""
    harness = load_harness(options.data)
    names = options.only or harness.names()
    print(
        f"{'posterior':<42}{'p':>5}{'max|z|':>7}{'sd err':>7}{'R-hat':>8}{'bulk':>7}{'tail':>7}"
        f"{'div':>5}{'leaps':>7}{'s':>8}  verdict"
    )
    rights, oks, trusted_wrong, peer_rights, ratios = 0, 0, [], 0, []
    for name in names:
        right, ok, seconds = run_bayes(harness, name, options.seed, options.reparam)
        rights, oks = rights + right, oks + ok
        if ok and not right:
            trusted_wrong.append(name)
        if options.peer:
            peer_right, peer_seconds = run_numpyro(harness, name, options.seed)
            peer_rights += peer_right
            ratios.append(peer_seconds / seconds)
    print(
        f"{len(names)} posteriors: {rights} right, {oks} called ok, "
        f"{len(trusted_wrong)} called ok but not right {' '.join(trusted_wrong)}"
    )
    if options.peer:
        mean = float(np.exp(np.mean(np.log(ratios))))
        print(
            f"numpyro as shipped: {peer_rights} right; its time is {mean:.1f} times that of bayes "
            "(geometric mean)"
        )


if __name__ == "__main__":
    main()
