"""From a posterior to its report: what it is written from; the posterior stays as it is."""

import copy
import dataclasses
import html
import json
import re
import sys
import time

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from models_for_tests import SCHOOLS_DATA, schools
from typer.testing import CliRunner

import bayes
from bayes import cli, reporting
from bayes.card import data_facts, model_facts
from bayes.diagnostics.checks import Check, Diagnostics
from bayes.diagnostics.report.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")

NASTY = '<script>alert("1")</script>&amp;"\'</style>'
BAD = Diagnostics((Check("rhat", float("nan"), 1.01, False, "chains have not mixed; run longer"),))
LATER = {"posterior_predictive", "log_likelihood", "log_prior"}
GROUPS = {"prior", "prior_predictive", *LATER}


def labelled(n, y=None):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("group", 2):
        effect = numpyro.sample("<b>\"effect'&amp;", dist.Normal(mean, 1))
    numpyro.sample("y", dist.Normal(effect.sum(), 1).expand([n]).to_event(1), obs=y)


QUICK = bayes.HMC(chains=2, warmup=50, draws=100)


@pytest.fixture(scope="module")
def post():
    return bayes.fit(schools, SCHOOLS_DATA, bayes.NUTS(chains=2, warmup=200, draws=200), seed=1)


@pytest.fixture
def seen(monkeypatch):
    """The case that a report is written from, with no section written."""
    cases = []

    def record(case, title):
        cases.append(case)
        return Report(title, case.diagnostics, (), case.card)

    monkeypatch.setattr(reporting, "write_report", record)
    return cases


def test_the_report_of_a_posterior_leaves_it_as_it_is(post, tmp_path, seen):
    before = {name: set(group.data_vars) for name, group in post.data.children.items()}
    report = post.report(tmp_path / "report.html", title="Schools")
    assert {n: set(g.data_vars) for n, g in post.data.children.items()} == before
    assert report.title == "Schools"
    assert (tmp_path / "report.html").read_text("utf-8") == report.html()
    case = seen[0]
    assert set(case.tree.children) >= GROUPS
    assert case.absent == {}
    assert case.diagnostics is post.diagnostics
    assert json.loads(json.dumps(case.card)) == case.card
    assert case.card["method"]["seed"] == 1
    assert case.card["draws"] == {"chains": 2, "draws": 200}
    assert "thinned" not in case.card


def test_same_seed_same_groups(post, seen):
    for seed in (0, 0, 1):
        post.report(seed=seed)
    first, again, other = [case.tree["posterior_predictive"]["y"].values for case in seen]
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_posterior_without_its_model_says_what_is_absent(post, tmp_path, seen):
    post.save(tmp_path / "post.zarr")
    loaded = bayes.load(tmp_path / "post.zarr")
    loaded.report()
    case = seen[0]
    assert set(case.absent) == GROUPS
    assert "bayes.load(path, model=...)" in case.absent["prior"]
    assert [s["name"] for s in case.card["model"]["sites"]] == ["mu", "tau", "theta", "y"]


def test_a_group_that_cannot_be_computed_is_absent_with_its_reason(post, monkeypatch, seen):
    extend = bayes.Posterior.extend

    def fails(self, group, **options):
        if group in ("prior", "log_likelihood"):
            raise MemoryError("takes 3 GiB")
        return extend(self, group, **options)

    monkeypatch.setattr(bayes.Posterior, "extend", fails)
    post.report()
    absent = seen[0].absent
    assert set(absent) == {"prior", "prior_predictive", "log_likelihood"}
    assert absent["prior"] == "MemoryError: takes 3 GiB"
    assert {"log_prior", "posterior_predictive"} <= set(seen[0].tree.children)


def test_with_many_numbers_the_groups_at_draws_are_thinned_alike(post, monkeypatch, seen):
    monkeypatch.setattr(reporting, "_MOST_NUMBERS", 100)
    monkeypatch.setattr(reporting, "_FEW_DRAWS", 50)
    post.report()
    case = seen[0]
    kept = np.arange(0, 200, 8)
    for group in LATER:
        np.testing.assert_array_equal(case.tree[group]["draw"], kept)
    assert case.tree["posterior"].sizes["draw"] == 200
    assert case.card["thinned"] == (
        "posterior_predictive, log_likelihood, log_prior: 25 of 200 draws a chain, which keeps "
        "memory small"
    )
    full = copy.copy(post)
    full.data = post.data.copy()
    full.extend("log_likelihood")
    expected = full.data["log_likelihood"]["y"].sel(draw=kept)
    np.testing.assert_allclose(case.tree["log_likelihood"]["y"], expected, rtol=1e-12)


def test_an_approximation_is_held_against_nuts_when_asked(post, monkeypatch, seen):
    with pytest.raises(bayes.SettingsError, match="nuts draws from the posterior itself"):
        post.report(against_nuts=True)
    assert not seen
    approximate = copy.copy(post)
    approximate.method = dataclasses.replace(post.method, name="guess")
    approximate.report(against_nuts=True)
    assert seen[0].tree["nuts"].sizes["draw"] == 500
    assert set(seen[0].tree["nuts"].data_vars) == {"mu", "tau", "theta"}


@pytest.mark.parametrize("options", [{"path": "report.txt"}, {"seed": -1}])
def test_wrong_options_are_refused_before_the_work(post, seen, options):
    with pytest.raises(bayes.SettingsError):
        post.report(**options)
    assert not seen


# ----------------------------------------------------------------------- the card


def kinds(x, group, total, y=None, count=None):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    low = numpyro.sample("low", dist.Normal(0, np.array([1.0, 2.0])).to_event(1))
    inside = numpyro.sample("inside", dist.Uniform(low[0], low[0] + 2))
    weight = numpyro.sample("weight", dist.TruncatedNormal(0, scale, low=0.0))
    mean = numpyro.deterministic("mean", weight * x + inside)
    numpyro.factor("penalty", -weight)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.StudentT(4, mean, scale), obs=y)
        numpyro.sample("count", dist.Binomial(total, logits=low[1]), obs=count)


KINDS = {
    "x": np.array([0.5, 1.0, np.pi]),
    "group": np.array([True, False, True]),
    "total": np.array([3, 4, 5]),
    "y": np.array([1.0, 2.0, 3.0]),
    "count": np.array([0, 1, 2]),
}


def test_sites_are_told_with_their_parameters_and_parents():
    problem = bayes.Model(kinds).bind(KINDS)
    found = {s["name"]: s for s in model_facts(problem)["sites"]}
    told = {n: (s["distribution"], s["parents"]) for n, s in found.items()}
    assert told == {
        "scale": ("HalfNormal(2)", []),
        "low": ("Normal(0, [1, 2])", []),
        "inside": ("Uniform(f(low), f(low))", ["low"]),
        "weight": ("LeftTruncatedDistribution(Normal(0, scale), low 0)", ["scale"]),
        "mean": ("", ["inside", "weight"]),
        "penalty": ("factor", ["weight"]),
        "y": ("StudentT(df 4, loc f(inside, weight), scale scale)", ["scale", "inside", "weight"]),
        "count": ("BinomialLogits(logits f(low), total_count [3, 4, 5])", ["low"]),
    }
    assert found["inside"]["support"] == "between bounds that depend on low"
    assert found["scale"]["support"] == "greater than 0"
    assert found["low"]["support"] == "real numbers"
    assert found["y"]["plates"] == ["row"]
    assert found["y"]["shape"] == [3]
    json.dumps(found)


def test_a_program_that_computes_with_its_data_in_python_is_told_too():
    def model(x, y=None):
        mean = numpyro.sample("mean", dist.Normal(0, 1 if float(x.sum()) > 0 else 2))
        numpyro.sample("y", dist.Normal(mean * x, 1).to_event(1), obs=y)

    problem = bayes.Model(model).bind({"x": np.arange(2.0), "y": np.array([0.0, 1.0])})
    found = [(s["distribution"], s["parents"]) for s in model_facts(problem)["sites"]]
    assert found == [("Normal(0, 1)", []), ("Normal(f(mean), 1)", ["mean"])]


def test_data_are_told_with_kind_and_range():
    problem = bayes.Model(kinds).bind(KINDS)
    found = {d["name"]: d for d in data_facts(problem.data, problem.observed_arguments)}
    told = {n: (d["kind"], d["range"], d["use"]) for n, d in found.items()}
    assert told == {
        "x": ("numbers", "0.5 to 3.142", "given"),
        "group": ("yes or no", "2 of 3 yes", "given"),
        "total": ("whole numbers", "3 to 5", "given"),
        "y": ("numbers", "1 to 3", "observed"),
        "count": ("whole numbers", "0 to 2", "observed"),
    }


# ----------------------------------------------------------------------- notebooks


def test_a_notebook_shows_verdict_method_and_a_short_table(post):
    shown = post._repr_html_()
    assert ("✓" in shown) == post.diagnostics.ok
    assert html.escape(str(post.method)) in shown
    assert len(re.findall("<tr>", shown)) == 1 + 10
    begin = time.process_time()
    post._repr_html_()
    assert time.process_time() - begin < 0.3


def test_a_notebook_shows_the_worst_first_where_not_ok(rng):
    values = rng.normal(size=(4, 100, 60))
    values[0, :, 41] += 9.0
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({"x": (("chain", "draw", "place"), values)})}
    )
    method = bayes.posterior.MethodRecord("nuts", {}, "asked for", 0, 1.0, {})
    shown = bayes.Posterior(tree, method, BAD, None)._repr_html_()
    assert re.findall(r"x\[\d+\]", shown)[0] == "x[41]"
    assert "20 of 60 rows, the largest R-hat first" in shown
    assert "R-hat — (threshold 1.01): chains have not mixed; run longer" in shown
    assert "matplotlib" not in shown


# ---------------------------------------------------------------- the real thing


def test_the_report_of_a_posterior_with_nasty_labels():
    coords = {"group": [NASTY, "b"]}
    data = {"n": 3, "y": np.arange(3.0)}
    post = bayes.fit(labelled, data, QUICK, coords=coords)
    text = post.report().html()
    assert "<script>alert" not in text
    assert len(re.findall("<script>", text)) == 1
    assert "<script>alert" not in post._repr_html_()
    assert html.escape(NASTY) in post._repr_html_()


def test_the_report_of_the_gallerys_radon_model(tmp_path):
    radon = bayes.gallery("radon")
    post = bayes.fit(radon.model, radon.data(), bayes.NUTS(chains=2, warmup=300, draws=200))
    report = post.report(tmp_path / "radon.html")
    size = (tmp_path / "radon.html").stat().st_size
    assert size < 5_000_000
    failed = {s.name: s.missing for s in report.sections if "could not be computed" in s.missing}
    assert not failed
    assert "county_effect" in report.html()
    json.dumps(report.to_dict(), allow_nan=False)
    assert {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"} >= set(
        re.findall(r"https?://[^\s\"'<)]+", report.html())
    )


# ------------------------------------------------------------------- command line

MODEL = """
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
"""
ENOUGH = ["--set", "warmup=300", "--set", "draws=800"]
TOO_FEW = ["--set", "chains=2", "--set", "warmup=20", "--set", "draws=20"]


@pytest.fixture
def bayes_cli(tmp_path, monkeypatch):
    """Run the command line in this process, in a folder with a model and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "line.py").write_text(MODEL)
    pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.1, 0.9, 2.2]}).to_csv("data.csv", index=False)

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.mark.usefixtures("seen")
def test_fit_and_report_write_reports(bayes_cli, tmp_path):
    fit = ["fit", "line.py", "--data", "data.csv", *ENOUGH]
    out = bayes_cli(*fit, "--save", "out.zarr", "--report", "fit.html")
    assert out.exit_code == 0, out.output
    assert out.stdout.endswith("report written to fit.html\n")
    assert "<h1>Posterior of line</h1>" in (tmp_path / "fit.html").read_text("utf-8")
    out = bayes_cli("report", "out.zarr")
    assert out.exit_code == 0, out.output
    assert out.stdout == "report written to out.html\n"
    out = bayes_cli("report", "out.zarr", "--model", "line.py", "--out", "out.json")
    assert out.exit_code == 0, out.output
    assert json.loads((tmp_path / "out.json").read_text())["title"] == "Posterior of line"
    out = bayes_cli("report", "out.zarr", "--out", "out.md", "--title", "Mine")
    assert (tmp_path / "out.md").read_text("utf-8").startswith("# Mine\n")


WRONG = {
    "suffix": (["fit", "line.py", "--report", "out.pdf"], "a report is .html, .md or .json"),
    "no posterior": (["report", "nothing.zarr"], "nothing.zarr does not exist"),
    "out": (["report", "nothing.zarr", "--out", "out.txt"], "a report is .html, .md or .json"),
    "model": (["report", "nothing.zarr", "--model", "no.py"], "no.py is not a Python file"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_on_stderr(bayes_cli, arguments, message):
    out = bayes_cli(*arguments)
    assert out.exit_code == 2
    assert out.stdout == ""
    assert re.search(message, out.stderr)
    assert "Traceback" not in out.stderr


@pytest.mark.usefixtures("seen")
def test_a_report_of_a_posterior_that_is_not_ok_has_its_exit_code(bayes_cli):
    out = bayes_cli("fit", "line.py", "--data", "data.csv", *TOO_FEW, "--save", "out.zarr")
    assert out.exit_code == 3
    out = bayes_cli("report", "out.zarr", "--out", "out.json")
    assert out.exit_code == 3
    assert out.stdout == "report written to out.json\n"


def test_help_has_examples(bayes_cli):
    out = bayes_cli("report", "--help")
    assert out.exit_code == 0
    assert "  bayes report schools.zarr" in out.output
