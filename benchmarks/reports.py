"""Seconds and memory of reports and of calibration.

    python benchmarks/reports.py [--parameters N] [--simulations N]

Three jobs, each in a fresh process, imports and compilation counted: the report of the gallery's
radon model, fitted with 4 x 1000 draws; the report of a fit with many parameters, memory of the fit
included; and calibration of a regression with ten parameters.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings


def radon(_: argparse.Namespace) -> dict[str, float]:
    """The report of a hierarchical model."""
    import bayes

    entry = bayes.gallery("radon")
    method = bayes.NUTS(draws=1000)
    return _reported(bayes.fit(entry.model, entry.data(), method, seed=0))


def many(options: argparse.Namespace) -> dict[str, float]:
    """The report of a fit with many parameters: normal means, each observed once."""
    import numpy as np
    import numpyro
    import numpyro.distributions as dist

    import bayes

    def means(n, y=None):
        spread = numpyro.sample("spread", dist.HalfNormal(1.0))
        with numpyro.plate("row", n):
            mean = numpyro.sample("mean", dist.Normal(0.0, spread))
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    count = options.parameters - 1
    y = np.random.default_rng(0).normal(size=count) * 1.5
    return _reported(bayes.fit(means, {"n": count, "y": y}, bayes.NUTS(draws=1000), seed=0))


def calibration(options: argparse.Namespace) -> dict[str, float]:
    """Calibration of a regression: an intercept, eight slopes and a scale, 50 rows."""
    import numpy as np
    import numpyro
    import numpyro.distributions as dist

    import bayes

    def regression(x, y=None):
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(intercept + x @ slope, scale), obs=y)

    x = np.random.default_rng(1).normal(size=(50, 8))
    begin = time.perf_counter()
    result = bayes.sbc(regression, {"x": x}, simulations=options.simulations, seed=0)
    return {"seconds": time.perf_counter() - begin, "ok": float(result.ok)}


def _reported(posterior) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.html"
        begin = time.perf_counter()
        posterior.report(path)
        return {"seconds": time.perf_counter() - begin, "MB": path.stat().st_size / 1e6}


JOBS = {"radon": radon, "many": many, "calibration": calibration}


def main() -> None:
    """Run every job in a process of its own and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10_000)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        warnings.simplefilter("ignore")
        found = JOBS[options.job](options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**found, "peak GB": peak}))
        return
    for name in JOBS:
        call = [sys.executable, __file__, *sys.argv[1:], "--job", name]
        out = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        found = json.loads(out.splitlines()[-1])
        print(f"{name:<12}", "  ".join(f"{key} {value:.3g}" for key, value in found.items()))


if __name__ == "__main__":
    main()
