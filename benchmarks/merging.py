"""Merge posteriors of shards of a logistic regression: how far from the posterior of all data?

    python benchmarks/merging.py [--splits N] [--shards M ...]

569 tumours, 30 correlated measurements and an intercept under N(0, I), cut at random (Wolberg,
Street and Mangasarian 1995, Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning Repository,
CC BY 4.0). Shards and whole are normals at the mode, from Newton's method in NumPy, so that a line
measures the merging alone: the median over splits of the Kullback-Leibler divergence of the merged
normal from that of all data, of the mean error of the elements in standard deviations, and of the
median ratio of standard deviations (merged / all data). "prior M times" is what multiplying the
posteriors as they are gives; "ok" counts merged posteriors that pass their verdict, which is of the
posterior itself and not of the normal of all data.
"""

from __future__ import annotations

import argparse
import pathlib
import time
import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist

import bayes
from bayes.inference.densities import densities_at
from bayes.merging import merge
from bayes.method import Draws
from bayes.normals import Normal, covariance, log_prob, normal_of_precision, push
from bayes.posterior import MethodRecord, Posterior


def logistic(x, y=None):
    """Coefficients under a standard normal prior."""
    b = numpyro.sample("b", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def read_data() -> tuple[np.ndarray, np.ndarray]:
    """Standardised measurements with an intercept, and whether a tumour is benign."""
    path = pathlib.Path(__file__).with_name("data") / "breast_cancer.csv"
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    x, y = table[:, :-1], table[:, -1].astype(int)
    return np.column_stack([np.ones(len(x)), (x - x.mean(axis=0)) / x.std(axis=0)]), y


def laplace(x: np.ndarray, y: np.ndarray) -> Normal:
    """The normal at the mode."""
    b = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ b))
        precision = np.eye(len(b)) + (x.T * (p * (1 - p))) @ x
        step = np.linalg.solve(precision, x.T @ (y - p) - b)
        b = b + step * min(1.0, 2.0 / np.max(np.abs(step)))
        if np.max(np.abs(step)) < 1e-10:
            return normal_of_precision(b, precision)
    raise RuntimeError("no mode")


def posterior(x: np.ndarray, y: np.ndarray) -> Posterior:
    """The normal at the mode of a shard, as a posterior."""
    problem, normal = bayes.Model(logistic).bind({"x": x, "y": y}), laplace(x, y)
    z = np.random.default_rng(0).normal(size=(256, problem.size))
    positions = normal.mean + push(normal, z)
    info = {"independent": True, "route": "raw", "not_converged": ""}
    draws = Draws(
        problem.constrain(positions[None]),
        {"lp": densities_at(problem, positions)[None]},
        chains=1,
        positions=positions[None],
        log_q=log_prob(normal, positions)[None],
        info=info,
        normal=normal,
    )
    return Posterior.assemble(problem, draws, MethodRecord("mode", {}, "", 0, 0.0, info))


def kl(p: Normal, q: Normal) -> float:
    """Kullback-Leibler divergence of one normal from another."""
    a, b = covariance(p), covariance(q)
    shift, ratio = q.mean - p.mean, np.linalg.solve(b, a)
    quadratic = shift @ np.linalg.solve(b, shift)
    return 0.5 * (np.trace(ratio) + quadratic - len(shift) - np.linalg.slogdet(ratio)[1])


def figures(found: Normal, whole: Normal) -> tuple[float, float, float]:
    """Divergence, mean error in standard deviations, median ratio of standard deviations."""
    error = np.mean(np.abs(found.mean - whole.mean) / whole.sd)
    return kl(whole, found), float(error), float(np.median(found.sd / whole.sd))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    x, y = read_data()
    whole, d = laplace(x, y), x.shape[1]
    # A flat normal in the prior's place: then nothing is taken off.
    flat = (np.zeros(d), 1e12 * np.eye(d))
    ways = {
        "full": {},
        "prior M times": {"prior": flat},
        "diagonal": {"form": "diagonal"},
        "+1 round": {"rounds": 1},
        "+2 rounds": {"rounds": 2},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bayes.ConvergenceWarning)
        verdict = posterior(x, y).diagnostics.verdict
    print(f"the normal of all data is itself {verdict}")
    print(f"{'M':>2}  {'way':<14}{'KL':>9}{'error/sd':>10}{'sd ratio':>10}{'ok':>8}{'ms':>7}")
    for count in options.shards:
        rows: dict[str, list] = {way: [] for way in ways}
        for split in range(options.splits):
            parts = np.array_split(np.random.default_rng(split).permutation(len(x)), count)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", bayes.ConvergenceWarning)
                posteriors = [posterior(x[r], y[r]) for r in parts]
                for way, settings in ways.items():
                    begin = time.perf_counter()
                    merged = merge(posteriors, draws=1000, seed=split, **settings)
                    seconds = time.perf_counter() - begin
                    group = merged.data["approximation"].to_dataset()
                    found = Normal(*(np.asarray(group[k].values) for k in Normal._fields))
                    ok = merged.diagnostics.ok
                    rows[way].append((*figures(found, whole), ok, 1e3 * seconds))
        for way, found in rows.items():
            divergence, error, ratio, _, ms = np.median(np.array(found, float), axis=0)
            ok = sum(row[3] for row in found)
            print(
                f"{count:>2}  {way:<14}{divergence:>9.4f}{error:>10.3f}{ratio:>10.3f}"
                f"{ok:>5}/{len(found)}{ms:>7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
