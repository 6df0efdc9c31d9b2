"""Amortized posteriors held against exact ones: accuracy by CPU minutes of training, speed.

    python benchmarks/amortized.py inverse-gamma   # a variance under its conjugate prior
    python benchmarks/amortized.py mixtures        # mixture priors, and priors of other kinds
    python benchmarks/amortized.py filtering       # fifty posteriors that are the next prior
    python benchmarks/amortized.py fusion          # range and bearing, beside particles
    python benchmarks/amortized.py sbibm --data DIR   # two_moons, slcp, gaussian_linear
    python benchmarks/amortized.py gallery         # beside NUTS, exact answers and references
    python benchmarks/amortized.py speed           # of one trained network; run on one core
    python benchmarks/amortized.py bank --data DIR # the simulation bank on the same tasks

What is measured goes to --out, a JSON object a line. A network is trained for --seconds of wall
time, compilation included (300 s on two cores are ten CPU minutes at most; `cpu_minutes` is what it
took), once for every seed; figures are of all seeds, none is left out. Settings are the defaults
but for the number of components and whether the prior may change at run time, which are as stated
in the code for each problem and the same for all seeds. Test sets have a seed of their own, 9100.
The 32 components of `mixtures` were chosen on seed 9000, by how well mixtures of so many fit priors
with an edge; five do for the mixtures themselves and for Student's t and Laplace priors.

KL is from the exact posterior to the network's, in nats, a mean over test sets, of the bare
network. C2ST is that of sbibm: accuracy of a classifier of 10 000 draws each, 0.5 at best.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import time
import warnings
from typing import Any

import amortized_fusion as fusion
import amortized_problems as problems
import amortized_sbibm as sbibm
import jax
import jax.numpy as jnp
import numpy as np

import bayes
from bayes.surrogates.mixtures import Mixture, mixture_of_covariances

TEST = 9100


def cpu_minutes() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) / 60


class Run:
    """Where figures go, and how long a network is trained."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def train(self, program: Any, data: dict, seed: int, settings: Any, **more: Any) -> Any:
        before = cpu_minutes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bayes.ConvergenceWarning)
            trained = bayes.amortize(
                program, data, settings, seed=seed, budget=self.options.seconds, **more
            )
        self.last = {"cpu_minutes": cpu_minutes() - before}
        if "steps" in getattr(trained, "training", {}):
            self.last["steps"] = trained.training["steps"]
        self.last["checks"] = trained.global_checks.verdict
        table = trained.global_checks.table
        self.last["coverage_90"] = [round(float(v), 3) for v in table["90%"].dropna()]
        return trained

    def tell(self, what: str, **found: Any) -> None:
        record = {"what": what, **found}
        print(json.dumps(record), flush=True)
        if self.options.out is not None:
            with self.options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


def spread(values: np.ndarray) -> dict[str, float]:
    q = np.quantile(values, [0.5, 0.95])
    return {
        "mean": float(np.mean(values)),
        "error": float(np.std(values) / np.sqrt(np.size(values))),
        "median": float(q[0]),
        "q95": float(q[1]),
        "largest": float(np.max(values)),
    }


# Exact answers ------------------------------------------------------------------------------------


def inverse_gamma(run: Run, seed: int) -> None:
    settings = bayes.DistributionTransformer(components=5, runtime_priors=0.0)
    for rows in run.options.rows:
        blank = {"shape": 2.0, "rate": 2.0, "y": np.zeros(rows)}
        trained = run.train(
            problems.inverse_gamma, blank, seed, settings, design=problems.inverse_gamma_design
        )
        sets = problems.inverse_gamma_sets(1000, TEST, rows)
        given = {name: sets[name] for name in ("shape", "rate", "y")}
        log_q = problems.densities(trained.posteriors(given).mixture)
        kl = problems.inverse_gamma_kl(sets["shape"], sets["rate"], sets["y"], log_q)
        run.tell("inverse-gamma", rows=rows, seed=seed, **spread(kl), **run.last)


def mixtures(run: Run, seed: int) -> None:
    components, d = run.options.components, 2
    settings = bayes.DistributionTransformer(
        components=components,
        runtime_priors=1.0,
        meta_prior=lambda key: problems.meta_prior(key, components, d),
    )
    trained = run.train(problems.location, {"d": d, "y": np.zeros(d)}, seed, settings)
    prior = problems.meta_priors(1000, components, d, TEST)
    generator = np.random.default_rng(TEST)
    with bayes_double():
        x = np.asarray(problems.sample(Mixture(*map(jnp.asarray, prior)), jax.random.key(1), 1))[0]
    y = x + generator.normal(size=x.shape)
    log_q = problems.densities(trained.posteriors({"y": y}, prior=prior).mixture)
    kl = problems.mixture_kl(problems.exact_posterior(prior, y), log_q)
    run.tell("mixtures", prior="as trained", seed=seed, **spread(kl), **run.last)
    for name, kind in problems.KINDS.items():
        y = problems.kind_sets(kind, 1000, d, TEST)
        other = trained.with_prior(kind.sampler(d)).prior.mixture(trained.reference, components)
        log_q = problems.densities(trained.posteriors({"y": y}, prior=other).mixture)
        run.tell("mixtures", prior=name, seed=seed, **spread(problems.kind_kl(kind, y, log_q)))


# Filters ------------------------------------------------------------------------------------------


def normals(key: jax.Array, d: int, centre: Any, log_scale: Any, bend: float = 0.7) -> Mixture:
    """One normal about a centre; `centre` and `log_scale` are pairs of a middle and a spread."""
    a, b, c = jax.random.split(key, 3)
    mean = centre[0] + centre[1] * jax.random.normal(a, (1, d))
    scales = log_scale[0] + log_scale[1] * jax.random.normal(b, (1, d))
    below = bend * jnp.tril(jax.random.normal(c, (1, d, d)), -1)
    return Mixture(jnp.zeros(1), mean, scales, below)


def filtering(run: Run, seed: int) -> None:
    system = problems.Linear()
    centre = np.zeros(2), np.array([3.0, 0.6])
    log_scale = np.log([0.35, 0.15]), np.array([0.6, 0.5])
    settings = bayes.DistributionTransformer(
        components=1, runtime_priors=1.0, meta_prior=lambda k: normals(k, 2, centre, log_scale)
    )
    start = {"loc": np.zeros(2), "scale": np.array(system.start)}
    trained = run.train(problems.moving, {**start, "y": 0.0}, seed, settings)
    y = system.simulate(100, 50, TEST)[1]
    exact = system.kalman(y)
    began = mixture_of_covariances(
        np.ones(1), np.zeros((1, 2)), np.diag(np.square(system.start))[None]
    )
    prior = Mixture(*(np.broadcast_to(p, (100, *p.shape)) for p in began))
    ratios, shifts = [], []
    for t in range(50):
        found = trained.posteriors({"y": y[t]}, prior=prior)
        kalman = Mixture(*(p[t] for p in exact))
        sd = np.sqrt(np.diagonal(problems.covariances(kalman)[:, 0], axis1=-2, axis2=-1))
        ratios.append(found.sd / sd)
        shifts.append((found.mean - kalman.means[:, 0]) / sd)
        prior = problems.pushed(found.mixture, system.matrix, system.process)
    ratios, shifts = np.stack(ratios), np.stack(shifts)
    run.tell(
        "filtering",
        seed=seed,
        sd_ratio_last=[float(v) for v in ratios[-1].mean(axis=0)],
        sd_ratio_worst=float(np.abs(ratios[-1] - 1).max()),
        sd_ratio_all=[float(ratios.min()), float(ratios.max())],
        mean_shift_last=float(np.sqrt(np.square(shifts[-1]).mean())),
        mean_shift_largest=float(np.abs(shifts).max()),
        **run.last,
    )


def states_met(key: jax.Array, components: int) -> Mixture:
    """Priors as a filter meets them: a posterior somewhere on a path, moved by the dynamics.

    Made up without running a filter: a place on a path, a spread between what one bearing and what
    many readings leave, and components apart by as much.
    """
    keys = jax.random.split(key, 6)
    steps = 100.0 * jax.random.uniform(keys[0])
    deviation = jnp.sqrt(
        jnp.array([1.0, 0.0, 1.0, 0.0]) * (1.0 + 0.1 * steps) + jnp.array([0, 0.06, 0, 0.06])
    )
    centre = fusion.START + deviation * jax.random.normal(keys[1], (4,))
    wide = jnp.exp(jax.random.uniform(keys[2], (), minval=-2.5, maxval=0.3))
    scale = (
        wide
        * jnp.array([1.0, 0.4, 1.0, 0.4])
        * jnp.exp(0.4 * jax.random.normal(keys[3], (components, 4)))
    )
    turn = jnp.linalg.qr(jax.random.normal(keys[4], (4, 4)))[0]
    factor = (turn * scale[:, None, :]) @ jnp.eye(4)
    before = factor @ jnp.swapaxes(factor, -1, -2)
    covariance = fusion.MATRIX @ before @ fusion.MATRIX.T + fusion.FACTOR @ fusion.FACTOR.T
    covariance = covariance + 1e-5 * jnp.eye(4)
    a, b = jax.random.split(keys[5])
    apart = jnp.einsum("ij,kj->ki", factor[0], jax.random.normal(a, (components, 4)))
    weights = jax.random.dirichlet(b, jnp.ones(components))
    lower = jnp.linalg.cholesky(covariance)
    diagonal = jnp.diagonal(lower, axis1=-2, axis2=-1)
    unit = lower / diagonal[:, None, :]
    below = jnp.tril(jnp.linalg.inv(unit), -1)
    log_weights = jnp.log(jnp.maximum(weights, 1e-6))
    return Mixture(
        log_weights - jax.nn.logsumexp(log_weights), centre + apart, jnp.log(diagonal), below
    )


def sensor_fusion(run: Run, seed: int) -> None:
    components = 4
    settings = bayes.DistributionTransformer(
        components=components,
        runtime_priors=1.0,
        meta_prior=lambda key: states_met(key, components),
    )
    blank = {"loc": fusion.START, "scale": np.ones(4), "y": np.zeros(2)}
    trained = run.train(fusion.update, blank, seed, settings)
    states, y = fusion.simulate(fusion.Sensors(), TEST)
    began = mixture_of_covariances(
        np.ones(components),
        np.tile(fusion.START, (components, 1)),
        np.tile(np.eye(4), (components, 1, 1)),
    )
    first = Mixture(*(np.broadcast_to(p, (fusion.SERIES, *p.shape)) for p in began))
    noise = fusion.FACTOR @ fusion.FACTOR.T + 1e-6 * np.eye(4)

    def once() -> np.ndarray:
        prior, scores = first, []
        for seen, truth in zip(y, states, strict=True):
            found = trained.posteriors({"y": seen}, prior=prior)
            scores.append(found.log_prob(truth))
            prior = problems.pushed(found.mixture, fusion.MATRIX, noise)
        return np.stack(scores)

    once()
    start = time.perf_counter()
    scores = once()
    ours = (time.perf_counter() - start) / fusion.STEPS
    fusion.particle_filter(fusion.Sensors(), y[:3], states[:3], 10_000, 0)
    start = time.perf_counter()
    particles = fusion.particle_filter(fusion.Sensors(), y, states, 10_000, 0)
    theirs = (time.perf_counter() - start) / fusion.STEPS
    kalman = fusion.normal_scores(*fusion.extended_kalman(fusion.Sensors(), y), states)
    run.tell(
        "fusion",
        seed=seed,
        nll=float(-scores.mean()),
        nll_error=float(scores.mean(axis=0).std() / np.sqrt(fusion.SERIES)),
        nll_particles=float(-particles.log_density.mean()),
        nll_particles_kernel=float(-particles.kernel.mean()),
        nll_extended_kalman=float(-kalman.mean()),
        seconds_a_step=ours,
        seconds_a_step_particles=theirs,
        **run.last,
    )


# Tasks of simulation-based inference -----------------------------------------------------------


def tasks(run: Run, seed: int) -> None:
    settings = bayes.DistributionTransformer(components=20, runtime_priors=0.0)
    judged(run, seed, settings, "transformer")


def bank(run: Run, seed: int) -> None:
    judged(run, seed, bayes.SimulationBank(components=8), "bank")


def judged(run: Run, seed: int, settings: Any, engine: str) -> None:
    for name in run.options.tasks:
        program = sbibm.PROGRAMS[name]
        blank = {"y": np.zeros(sbibm.SHAPES[name])}
        trained = run.train(program, blank, seed, settings).replace(draws=10_000)
        for i in range(1, 11):
            task = sbibm.task(run.options.data, name, i)
            found: dict[str, Any] = {}
            for route in ("raw", "ladder"):
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", bayes.ConvergenceWarning)
                    post = bayes.fit(program, {"y": task.y}, trained.replace(route=route), seed=i)
                found[f"{route}_seconds"] = time.perf_counter() - start
                draws = post.draws("theta").values.reshape(-1, task.reference.shape[1])
                found[f"{route}_c2st"] = sbibm.c2st(task.reference, draws, count=run.options.count)
                if route == "ladder":
                    found["route"] = post.method.info["surrogate"]["route"]
                    found["ok"] = post.diagnostics.ok
            run.tell("sbibm", engine=engine, task=name, seed=seed, observation=i, **found)
        run.tell("sbibm-training", engine=engine, task=name, seed=seed, **run.last)


# The gallery ------------------------------------------------------------------------------------


def quantum_design(key: jax.Array) -> dict[str, jax.Array]:
    a, b, c = jax.random.split(key, 3)
    angle = jax.random.uniform(a, (10,), maxval=2 * np.pi)
    waits = jax.random.exponential(b, (2, 4)).sum(axis=-1)
    return {
        "a": 6.0 / waits[0],
        "b": 6.0 / waits[1],
        "up": jnp.cos(angle),
        "down": jnp.sin(angle),
        "time": jax.random.uniform(c, (10,), maxval=10.0),
    }


def gallery(run: Run, seed: int) -> None:
    for name in run.options.models:
        entry = bayes.gallery(name)
        design = {"quantum": quantum_design}.get(name)
        trained = run.train(entry.model, entry.data(), seed, None, design=design)
        posts, seconds = {}, {}
        for label, method in (
            ("raw", trained.replace(route="raw")),
            ("ladder", trained.replace(draws=4000)),
            ("nuts", "nuts"),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", bayes.ConvergenceWarning)
                bayes.fit(entry.model, entry.data(), method, seed=seed)
                start = time.perf_counter()
                posts[label] = bayes.fit(entry.model, entry.data(), method, seed=seed + 1)
            seconds[label] = time.perf_counter() - start
        for label, post in posts.items():
            shifts, widths = beside(post, entry.reference)
            run.tell(
                "gallery",
                model=name,
                seed=seed,
                engine=label,
                ok=post.diagnostics.ok,
                route=post.method.info.get("surrogate", {}).get("route"),
                seconds=seconds[label],
                mean_off=float(np.max(np.abs(shifts))),
                sd_off=float(np.max(np.abs(widths))),
                **(run.last if label == "raw" else {}),
            )


def speed(run: Run, seed: int) -> None:
    """After compilation, medians of 30 calls; `taskset -c 0` makes it one core."""
    entry = bayes.gallery("eight_schools")
    table = entry.data()
    data = {name: table[name].to_numpy() for name in ("sigma", "y")}
    trained = run.train(entry.model, data, seed, None)
    one = {name: value[None] for name, value in data.items()}
    generator = np.random.default_rng(TEST)
    many = {"sigma": np.tile(data["sigma"], (1000, 1)), "y": 15 * generator.normal(size=(1000, 8))}
    raw = trained.replace(route="raw")
    calls = {
        "network": lambda: trained.posteriors(one),
        "network_and_1000_draws": lambda: trained.posteriors(one).draws(1000),
        "thousand_data_sets": lambda: trained.posteriors(many),
        "fit_raw": lambda: bayes.fit(entry.model, data, raw),
        "fit_ladder": lambda: bayes.fit(entry.model, data, trained),
        "fit_nuts": lambda: bayes.fit(entry.model, data),
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, call in calls.items():
            call()
            times = []
            for _ in range(30):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            found[name] = float(np.median(times))
    cores = len(os.sched_getaffinity(0))
    run.tell("speed", seed=seed, cores=cores, milliseconds={k: 1e3 * v for k, v in found.items()})


def beside(post: Any, reference: dict[str, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Differences of means in standard deviations, and relative ones of standard deviations."""
    shifts, widths = [], []
    for element, (mean, sd) in reference.items():
        site, _, place = element.partition("[")
        draws = post.draws(site).values
        if place:
            draws = draws[(..., *(int(i) for i in place[:-1].split(",")))]
        shifts.append((draws.mean() - mean) / sd)
        widths.append(draws.std() / sd - 1)
    return np.asarray(shifts), np.asarray(widths)


def bayes_double() -> Any:
    from bayes.compilation import computing

    return computing()


PARTS = {
    "inverse-gamma": inverse_gamma,
    "mixtures": mixtures,
    "filtering": filtering,
    "fusion": sensor_fusion,
    "sbibm": tasks,
    "bank": bank,
    "gallery": gallery,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--components", type=int, default=32, help="of the prior in `mixtures`")
    parser.add_argument("--rows", type=int, nargs="+", default=[10])
    parser.add_argument("--tasks", nargs="+", default=list(sbibm.PROGRAMS))
    parser.add_argument(
        "--models",
        nargs="+",
        default=["eight_schools", "logistic_regression", "ar_k", "quantum", "gp_hyperparameters"],
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    os.environ.setdefault("BAYES_CACHE", "")
    for seed in options.seeds:
        PARTS[options.part](Run(options), seed)


if __name__ == "__main__":
    main()
