"""Make the references of the larger targets: moments of a long run of NUTS, with their errors.

    python benchmarks/vi_references.py [NAME ...]

Each goes to ``references/NAME.json``, with the settings it was made with, and is kept there: a run
takes some minutes. Before it is written, effective sample sizes and R-hat of the judged sites are
shown; R-hat above 1.05 is not taken for a reference.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
import warnings
from typing import Any

import numpy as np
from judging import convergence
from vi_judging import reference_path
from vi_targets import OWN, load_target

_SETTINGS = {
    "grouped-logistic": {"chains": 4, "warmup": 300, "draws": 750},
    "horseshoe": {"chains": 4, "warmup": 400, "draws": 600},
    "network": {"chains": 6, "warmup": 500, "draws": 1000},
}
_SEED, _WORST_RHAT, _DIGITS = 1234, 1.05, 5


def moments(draws: np.ndarray) -> dict[str, list[float]]:
    """Means and standard deviations with their Monte Carlo errors, elements flat.

    Parameters
    ----------
    draws : array of shape (chain, draw, ...)
    """
    from arviz_stats.base import array_stats

    x = np.asarray(draws, float).reshape(*draws.shape[:2], -1)
    axes = {"chain_axis": 0, "draw_axis": 1}
    mean, sd = x.mean(axis=(0, 1)), x.std(axis=(0, 1), ddof=1)
    squares = (x - mean) ** 2
    size, size_squares = (array_stats.ess(v, method="mean", **axes) for v in (x, squares))
    found = {
        "mean": mean,
        "sd": sd,
        "mcse_mean": sd / np.sqrt(size),
        "mcse_sd": squares.std(axis=(0, 1), ddof=1) / np.sqrt(size_squares) / (2 * sd),
    }
    return {k: [float(f"{v:.{_DIGITS}g}") for v in np.atleast_1d(vs)] for k, vs in found.items()}


def make(name: str) -> dict[str, Any]:
    """The reference of one of the own targets."""
    import bayes

    target, settings = load_target(name, None), _SETTINGS[name]
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not identified has not mixed, nor need it
        post = bayes.fit(target.program, target.data, bayes.NUTS(**settings), seed=_SEED)
    seconds = time.perf_counter() - begin
    judged = {site: post.data["posterior"][site].values for site in target.judged}
    divergences = int(post.data["sample_stats"]["diverging"].values.sum())
    how = {"method": "nuts", **settings, "seed": _SEED, "versions": post.method.versions}
    how |= {"seconds": round(seconds), "divergences": divergences, **convergence(judged)}
    return {"target": name, "how": how, "sites": {k: moments(v) for k, v in judged.items()}}


def main() -> None:
    """Make those that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all by default")
    names = parser.parse_args().names or list(OWN)
    unknown = [name for name in names if name not in OWN]
    if unknown:
        sys.exit(f"no target {', '.join(unknown)}; there are {', '.join(OWN)}")
    poor = []
    for name in names:
        found = make(name)
        how = found["how"]
        line = f"{how['seconds']} s, R-hat {how['rhat']:.3f}, ESS {how['bulk']:.0f} bulk"
        print(
            f"{name}: {line}, {how['tail']:.0f} tail, {how['divergences']} divergences", flush=True
        )
        if not how["rhat"] <= _WORST_RHAT:
            poor.append(name)
            continue
        path = reference_path(name)
        path.parent.mkdir(exist_ok=True)
        temporary = pathlib.Path(f"{path}.part")
        temporary.write_text(json.dumps(found, separators=(",", ":")) + "\n")
        temporary.replace(path)
    if poor:
        sys.exit(f"chains have not mixed, nothing written: {', '.join(poor)}")


if __name__ == "__main__":
    main()
