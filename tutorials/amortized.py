# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---
# %% [markdown]
# # Amortized posteriors: train once, fit in milliseconds
#
# A sampler begins anew with every data set. `bayes.amortize` trains a network on draws from the
# program itself, prior and simulator, and gives back a method for `bayes.fit` that maps data, and
# a prior, to a posterior. It pays where the same program is fitted many times: to many data sets,
# under many priors, or to a stream. A network is never exact. So every fit weights the network's
# draws by the program's own density, and goes down a ladder where they do not do.
#
# Run it from the root of the project: `python tutorials/amortized.py`, about two minutes, most
# of them training and compilation; with `BAYES_TUTORIAL=small` with shorter training and on fewer
# data sets.

# %%
import os
import pathlib
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import bayes

SMALL = os.environ.get("BAYES_TUTORIAL") == "small"
PICTURES = pathlib.Path("results/tutorials")
PICTURES.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A program, and a network trained on it
#
# The eight schools: effects of coaching, measured with known standard errors, that share a mean
# and a spread. Only shapes and the standard errors are used for training; the observed effects are
# drawn from the program. Standard errors of other data sets are drawn from those given, so that
# other ones can come later. `steps` fixes the length of the training; `budget=600`, in seconds, is
# the usual way to do that.


# %%
def schools(sigma, y=None):
    """Effects in a number of schools, measured with known errors."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", sigma.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def train(program, data, **settings):
    """A trained network; what its checks say is printed, not warned of."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bayes.ConvergenceWarning)
        trained = bayes.amortize(program, data, bayes.DistributionTransformer(**settings), seed=0)
    print(f"{trained.training['steps']} steps, {time.perf_counter() - began:.0f} s with its checks")
    return trained


data = bayes.gallery("eight_schools").data()
dt = train(schools, data, components=8, steps=150 if SMALL else 800)
print(dt.global_checks)

# %% [markdown]
# The checks hold the bare network against a thousand data sets whose parameters are known: ranks
# (`sbc`), 90 % intervals of each unknown (`coverage`) and joint regions (`tarp`) should hold the
# truth as often as they say, and the posteriors should tell more than the prior (`recovery`).
# `sbc` includes the log likelihood and is the strictest of them. After a training this short it is
# usual that it fails: the bare network is not to be trusted then, and what follows does not.
#
# ## Other data
#
# A fit asks the network for a mixture of normals, draws from it, and weights the draws by the
# program's exact density. The first fit compiles; from then on it is milliseconds.


# %%
def fitted(method, data, **options):
    """A posterior and the milliseconds that it took."""
    began = time.perf_counter()
    post = bayes.fit(schools, data, method=method, **options)
    return post, 1e3 * (time.perf_counter() - began)


def route(post):
    """The rung of the ladder that a posterior came from."""
    return post.method.info["surrogate"]["route"]


post, first = fitted(dt, data)
post, again = fitted(dt, data)
print(f"eight schools: {first:.0f} ms with compilation, {again:.0f} ms without")
print(post.diagnostics)
print(post.summary(var_names=["mu", "tau"])[["mean", "sd"]])

# %% [markdown]
# Then data sets drawn from the program, and two that it would hardly ever draw, or never: the mean
# has a prior of 0 ± 5, and training saw no such small errors. `route` says where a posterior came
# from:
#
# | route | when |
# |---|---|
# | `psis` | weights of the network's own draws are good: they are resampled |
# | `adapted` | they were not; the mixture was fitted to this posterior by weights or scores |
# | `nuts` | that did not help either: chains that start from the mixture |
# | `raw` | asked for by `route="raw"`: draws of the network's mixture as they are |

# %%
rng = np.random.default_rng(1)
sigma = data["sigma"].to_numpy()
count = 8 if SMALL else 60
routes, times, verdicts = [], [], []
for seed in range(count):
    mu, tau = rng.normal(0, 5), abs(5 * rng.standard_cauchy())
    y = rng.normal(rng.normal(mu, tau, 8), sigma)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bayes.ConvergenceWarning)
        found, ms = fitted(dt, {"sigma": sigma, "y": y}, seed=seed)
    routes.append(route(found))
    times.append(ms)
    verdicts.append(found.diagnostics.ok)
many = ", ".join(f"{routes.count(r)} {r}" for r in ("psis", "adapted", "nuts", "raw"))
print(f"{count} data sets: {many}; {sum(verdicts)} ok; median {np.median(times):.0f} ms")

STRANGE = {
    "effects raised by 100 points": data.assign(y=data["y"] + 100),
    "standard errors a tenth": data.assign(sigma=data["sigma"] / 10),
}
for title, odd in STRANGE.items():
    fitted(dt, odd)
    far, ms = fitted(dt, odd)
    info = far.method.info["surrogate"]
    print(f"{title}: {info['route']}, {ms:.0f} ms, ok: {far.diagnostics.ok}")
    print("  why:", info["reason"])
    print("  note:", *info["notes"])

# %% [markdown]
# The verdict on each fit is that of any other approximation in bayes, or that of chains where it
# came to these. What the notes say of the data is about the network; on the ladder it is the
# weights that decide.
#
# ## Other priors
#
# `with_prior` changes the prior, and nothing is trained: half of the training was under priors
# other than the program's own. The weights are those of the program with the new prior, so that
# the answer does not depend on how well the network knows it. The first fit under a prior finds the
# mixture that stands for it, which takes longer; each one after that is as quick as before. Beside
# it NUTS, on the program written anew by hand.

# %%
PRIORS = {
    "as written": {},
    "mu ~ Normal(10, 3)": {"mu": dist.Normal(10, 3)},
    "tau ~ HalfNormal(1)": {"tau": dist.HalfNormal(1)},
}


def written_anew(prior):
    """The program with other priors, by hand."""

    def program(sigma, y=None):
        mu = numpyro.sample("mu", prior.get("mu", dist.Normal(0, 5)))
        tau = numpyro.sample("tau", prior.get("tau", dist.HalfCauchy(5)))
        with numpyro.plate("school", sigma.shape[0]):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return program


amortized, sampled = {}, {}
for title, prior in PRIORS.items():
    method = dt.with_prior(prior) if prior else dt
    _, first = fitted(method, data)
    amortized[title], ms = fitted(method, data, seed=1)
    sampled[title] = bayes.fit(written_anew(prior), data, reparam="auto", seed=0)
    both = [p[title].draws(s) for s in ("mu", "tau") for p in (amortized, sampled)]
    means, sd = [float(d.mean()) for d in both], [float(d.std()) for d in both]
    apart = max(abs(means[0] - means[1]) / sd[1], abs(means[2] - means[3]) / sd[3])
    print(
        f"{title}: {first:.0f}, then {ms:.0f} ms, {route(amortized[title])}; "
        f"mean of mu {means[0]:.2f}, with NUTS {means[1]:.2f}; "
        f"of tau {means[2]:.2f}, {means[3]:.2f}; at most {apart:.2f} sd apart"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for ax, site, edges in zip(axes, ("mu", "tau"), ((-8, 18), (0, 14)), strict=True):
    bins = np.linspace(*edges, 41)
    for place, title in enumerate(PRIORS):
        shown = {"bins": bins, "density": True, "color": f"C{place}"}
        ax.hist(amortized[title].draws(site).values.ravel(), alpha=0.35, label=title, **shown)
        ax.hist(sampled[title].draws(site).values.ravel(), histtype="step", lw=1.5, **shown)
    ax.set(xlabel=f"{site}, points", yticks=[], xlim=edges)
axes[0].set_ylabel("posterior density")
axes[1].plot([], [], color="0.3", label="NUTS (outlines)")
axes[1].legend(frameon=False)
figure.savefig(PICTURES / "amortized_priors.png", dpi=110)

# %% [markdown]
# Besides distributions by site, a prior can be a function from a key to values of all sites, a
# mixture, or a posterior, which is what streams below are made of. These need a program without
# reparametrised sites; here `theta` is non-centred, as mixtures of normals cannot follow a funnel.
#
# ## A thousand posteriors at once
#
# `posteriors` asks the network for many data sets in one call. They are bare: neither weighted nor
# judged. That suits studies in which a small error does not matter, such as: how well would eight
# schools tell the spread between schools?

# %%
total = 1000
mu, tau = rng.normal(0, 5, total), np.abs(5 * rng.standard_cauchy(total))
theta = mu[:, None] + tau[:, None] * rng.standard_normal((total, 8))
sets = {"sigma": np.tile(sigma, (total, 1)), "y": rng.normal(theta, sigma)}
dt.posteriors(sets)
began = time.perf_counter()
batch = dt.posteriors(sets)
seconds = time.perf_counter() - began
draws = batch.draws(200, seed=0)
print(f"{total} posteriors in {1e3 * seconds:.0f} ms")
for site, truth in {"mu": mu, "tau": tau}.items():
    low, high = np.quantile(draws[site].values, [0.05, 0.95], axis=1)
    inside, width = np.mean((low < truth) & (truth < high)), np.median(high - low)
    print(f"{site}: bare 90 % intervals hold the truth in {inside:.1%}; median width {width:.1f}")

# %% [markdown]
# ## Saved and loaded
#
# One safetensors file, which names the program it belongs to. Nothing is unpickled; with another
# program it is refused.

# %%
path = PICTURES.parent / "eight_schools.safetensors"
dt.save(path)
loaded = bayes.load(path, model=schools)
same, _ = fitted(loaded, data)
alike = np.array_equal(same.draws("mu"), post.draws("mu"))
print(f"{path.stat().st_size / 1e3:.0f} kB; the same draws: {alike}")


def other_schools(sigma, y=None):
    """Another prior, written into the program."""
    mu = numpyro.sample("mu", dist.Normal(0, 50))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", sigma.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


try:
    bayes.load(path, model=other_schools)
except bayes.BayesError as error:
    print(f"refused: {error}")

# %% [markdown]
# ## A stream: the posterior is the next prior
#
# Batches of readings come in, and each is to be forgotten once it is fitted. What is kept is the
# posterior, as the prior of what comes next. Here every batch has twenty readings; a program whose
# number of rows comes with its covariates is trained for fewer rows, too.


# %%
def readings(y=None):
    """Normal readings with unknown mean and standard deviation."""
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    with numpyro.plate("reading", 20):
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


rng = np.random.default_rng(3)
batches = rng.normal(3, 2, (4 if SMALL else 12, 20))
stream = train(readings, {"y": batches[0]}, components=4, steps=100 if SMALL else 500)

posts = []
for seed, y in enumerate(batches):
    method = stream.with_prior(posts[-1]) if posts else stream
    posts.append(bayes.fit(readings, {"y": y}, method=method, seed=seed))
print("routes:", ", ".join(route(p) for p in posts))

# %% [markdown]
# A posterior goes on as a mixture of normals fitted to its draws, and what that leaves out adds up.
# `chain_drift` tells how much: it weights the last posterior's draws to the exact posterior of all
# batches. It needs the data once more, so it is for a test of the chain, or from time to time.
#
# The exact posterior of all batches so far, by quadrature on a grid, tells the same.


# %%
def exact(y):
    """Means and standard deviations of mean and sd, by quadrature."""
    mean, sd = np.linspace(-5, 12, 1701)[:, None], np.linspace(0.02, 15, 1500)[None]
    square = np.square(y - y.mean()).sum() + len(y) * np.square(y.mean() - mean)
    height = -len(y) * np.log(sd) - square / (2 * sd**2)
    height = height + stats.norm.logpdf(mean, 0, 10) + stats.halfnorm.logpdf(sd, 0, 5)
    weights = np.exp(height - height.max())
    weights /= weights.sum()
    found = []
    for values, axis in ((mean.ravel(), 1), (sd.ravel(), 0)):
        margin = weights.sum(axis)
        centre = margin @ values
        found.append((centre, np.sqrt(margin @ np.square(values - centre))))
    return np.array(found)


drift = bayes.chain_drift(posts)
print(drift)
print(drift.table().round(3))
known = np.array([exact(batches[: i + 1].ravel()) for i in range(len(batches))])
for site, (centre, spread) in zip(("mean", "sd"), known[-1], strict=True):
    print(f"by quadrature: {site} {centre:.3f} ± {spread:.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
at = np.arange(1, len(batches) + 1)
for k, (ax, site) in enumerate(zip(axes, ("mean", "sd"), strict=True)):
    draws = [p.draws(site).values for p in posts]
    centre, spread = np.array([d.mean() for d in draws]), np.array([d.std() for d in draws])
    ax.errorbar(at - 0.12, centre, 2 * spread, fmt="o", ms=4, capsize=2, label="chain of fits")
    shown = {
        "fmt": "s",
        "ms": 4,
        "capsize": 2,
        "color": "0.4",
        "label": "exact, all batches so far",
    }
    ax.errorbar(at + 0.12, known[:, k, 0], 2 * known[:, k, 1], **shown)
    ax.axhline((3, 2)[k], color="C3", lw=0.8, label="truth")
    ax.set(xlabel="batches", ylabel=f"{site}, ± 2 posterior sd", xticks=at)
axes[1].legend(frameon=False)
figure.savefig(PICTURES / "amortized_stream.png", dpi=110)

# %% [markdown]
# ## Where something else is better
#
# For one data set NUTS needs a second or so, and no training: amortize where there are many. A
# mixture of normals with full covariances is for few unknowns, 32 at most; with the ten of eight
# schools and a training this short, the network's own draws did for about half of the data sets. A
# program with discrete unknowns is refused, as is one that computes with what it observes, so that
# no new data could be drawn from it.
