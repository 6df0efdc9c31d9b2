"""The sections of a report on checks, model, parameters, chains and the sampler."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import xarray as xr

from bayes.diagnostics.checks import RHAT, Check, Diagnostics, diagnose
from bayes.diagnostics.ranks import tail_ess
from bayes.diagnostics.report.contents import Case, Facts, Figure, Table, Text
from bayes.diagnostics.report.sections import statistics
from bayes.diagnostics.report.sections.chain_findings import Traced, finding
from bayes.diagnostics.report.sections.chains import chains, outline
from bayes.diagnostics.report.sections.divergences import divergences, separation
from bayes.diagnostics.report.sections.energy import energy, tree_depth
from bayes.diagnostics.report.sections.model_graph import model
from bayes.diagnostics.report.sections.overview import checks, data, method
from bayes.diagnostics.report.sections.parameters import parameters
from bayes.diagnostics.report.sections.statistics import elements_of, parts_of
from bayes.diagnostics.table import summary
from bayes.draw_store import DrawStore, digest
from bayes.stored_draws import lazy_variable

SECTIONS = (checks, model, data, method, parameters, chains, divergences, energy, tree_depth)
CARD = {
    "model": {
        "name": "schools",
        "sites": [
            {
                "name": name,
                "kind": kind,
                "shape": shape,
                "distribution": distribution,
                "support": "real numbers",
                "plates": plates,
                "parents": parents,
            }
            for name, kind, shape, distribution, plates, parents in (
                ("mu", "latent", [], "Normal(0, 5)", [], []),
                ("tau", "latent", [], "HalfCauchy(5)", [], []),
                ("theta", "latent", [3], "Normal(mu, tau)", ["school"], ["mu", "tau"]),
                ("y", "observed", [3], "Normal(theta, 10)", ["school"], ["theta"]),
            )
        ],
    },
    "data": [{"name": "y", "shape": [3], "kind": "numbers", "range": "-3 to 28"}],
    "method": {
        "name": "nuts",
        "settings": {"chains": 4, "target_accept": None},
        "reason": "asked for",
        "seed": 7,
        "seconds": 3.25,
        "info": {
            "max_tree_depth": 10,
            "metric": "diagonal",
            "target_accept": 0.8,
            "warmup": 500,
            "leapfrogs": [9000, 9100, 9050, 9000],
            "restarts": [0, 0, 1, 0],
        },
    },
    "versions": {"bayes": "0.1.0", "jax": "0.7"},
    "created": "2026-01-02 03:04 UTC",
}


def make_case(rng, sites=None, stats=None, card=CARD, chains=4, draws=1000, coords=None):
    """A posterior without fault, and what a test changes in it."""
    if sites is None:
        sites = {
            "mu": rng.normal(size=(chains, draws)),
            "tau": np.exp(0.3 * rng.normal(size=(chains, draws))),
            "theta": rng.normal(size=(chains, draws, 3)),
        }
    shape = next(iter(sites.values())).shape[:2]
    given = {
        "lp": rng.normal(size=shape),
        "energy": rng.normal(size=shape),
        "diverging": np.zeros(shape, bool),
        "tree_depth": rng.integers(2, 5, size=shape),
        "n_steps": rng.integers(3, 16, size=shape),
        "acceptance_rate": rng.beta(8, 2, size=shape),
        "step_size": np.full(shape, 0.31),
        **(stats or {}),
    }
    dims = ("chain", "draw")
    plate = {"theta": ("school",)}
    posterior = xr.Dataset(
        {
            name: (
                (*dims, *plate.get(name, tuple(f"{name}_{i}" for i in range(values.ndim - 2)))),
                values,
            )
            for name, values in sites.items()
        },
        coords=coords,
    )
    given = {name: values for name, values in given.items() if values is not None}
    sample_stats = xr.Dataset({name: (dims, values) for name, values in given.items()})
    tree = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": sample_stats})
    info = card.get("method", {}).get("info", {})
    return Case(tree, diagnose(tree, info), card)


def written(case, sections=SECTIONS):
    """Every section that applies, by name; each with strict JSON and well-formed figures."""
    found = {}
    for section in sections:
        made = section(case)
        if made is None:
            continue
        found[made.name] = made
        json.dumps(made.data, allow_nan=False)
        for block in made.blocks:
            if isinstance(block, Figure):
                assert block.caption
                assert block.summary
                root = ElementTree.fromstring(block.svg)
                assert root.tag.endswith("svg")
                assert len(block.svg.encode()) < 150_000, made.name
    return found


def words(section):
    """What a section says in its paragraphs, facts and captions."""
    parts = []
    for block in section.blocks:
        if isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Facts):
            parts += [f"{label}: {value}" for label, value in block.rows]
        else:
            parts.append(block.caption)
    return "\n".join(parts)


def tables(section):
    return [block for block in section.blocks if isinstance(block, Table)]


def figures(section):
    return [block for block in section.blocks if isinstance(block, Figure)]


# ------------------------------------------------------------------- the whole


def test_a_good_fit(rng):
    found = written(make_case(rng))
    assert list(found) == [
        "checks",
        "model",
        "data",
        "method",
        "parameters",
        "chains",
        "energy",
        "tree-depth",
    ]
    assert not tables(found["checks"])[0].flagged
    assert found["parameters"].data["flagged"] == 0
    assert {worst["finding"] for worst in found["chains"].data["worst"]} == {"the chains agree"}
    assert len(figures(found["chains"])) == 2
    assert all("currentColor" in f.svg for s in found.values() for f in figures(s))


def test_what_is_not_in_the_card_or_the_tree_is_left_out(rng):
    mute = dict.fromkeys(
        ("energy", "diverging", "tree_depth", "n_steps", "acceptance_rate", "step_size", "lp")
    )
    found = written(make_case(rng, stats=mute, card={}))
    assert list(found) == ["checks", "parameters", "chains"]
    case = make_case(rng)
    bare = Case(
        xr.DataTree.from_dict({"posterior": case.tree["posterior"].to_dataset()}),
        case.diagnostics,
        {},
    )
    assert list(written(bare)) == ["checks", "parameters", "chains"]


# ---------------------------------------------------------------------- checks


def test_checks_in_words(rng):
    verdict = Diagnostics(
        (
            Check("rhat", 1.4, 1.01, False, "chains have not mixed (worst: mu); run longer"),
            Check("ess_bulk", float("nan"), 400.0, False, "3 draws a chain are too few"),
            Check("new_check", float("inf"), 2.0, True),
        ),
        "budget",
        ("something else",),
    )
    case = make_case(rng)
    section = written(Case(case.tree, verdict, {}), [checks])["checks"]
    table = tables(section)[0]
    assert table.flagged == (0, 1)
    assert table.rows[0][:4] == ("Largest R-hat", "1.400", "below 1.01", "failed")
    assert table.rows[0][4].endswith("Chains have not mixed (worst: mu); run longer.")
    assert table.rows[1][1] == "not assessable"
    assert table.rows[2][0] == "New check"
    assert "time was up" in words(section)
    assert "Note: something else" in words(section)
    assert section.data["checks"][1]["value"] is None
    assert section.data["interrupted"] == "budget"


def test_how_it_was_made(rng):
    found = written(make_case(rng), [data, method])
    facts = words(found["method"])
    for text in ("nuts", "Seed: 7", "4 chains of 1000", "36,150 in all", "0.31", "jax 0.7"):
        assert text in facts
    assert "Chains started afresh: 2" in facts
    assert "Chains moved" not in facts
    assert found["method"].data["draws"] == {"chains": 4, "draws": 1000}
    assert tables(found["data"])[0].rows == (("y", "numbers", "3", "-3 to 28"),)


# ------------------------------------------------------------------ parameters


def test_the_table_has_the_numbers_of_the_summary(rng):
    """Both are exact; only the order of sums differs."""
    labels = {"school": ["Choate", "Deerfield", "Andover"]}
    case = make_case(rng, coords=labels)
    table = tables(parameters(case))[0]
    expected = summary(case.tree, round_to="none")
    assert table.columns[:3] == ("parameter", "label", "mean")
    assert [row[0] for row in table.rows] == ["mu", "tau", "theta[0]", "theta[1]", "theta[2]"]
    assert [row[1] for row in table.rows][1:3] == ["", "Choate"]
    found = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    pairs = {
        "mean": "mean",
        "sd": "sd",
        "5.5 %": "eti89_lb",
        "94.5 %": "eti89_ub",
        "R-hat": "r_hat",
        "MCSE of mean": "mcse_mean",
        "MCSE of sd": "mcse_sd",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(found[ours], expected[theirs].to_numpy(float), err_msg=ours)
    np.testing.assert_array_equal(found["bulk ESS"], np.floor(expected["ess_bulk"]))
    # The tails of the verdict are those of 90 % intervals, whatever interval the summary has.
    theta = case.tree["posterior"]["theta"].values
    np.testing.assert_array_equal(found["tail ESS"][2:], np.floor(tail_ess(theta)))


def test_two_thousand_parameters_and_the_two_that_did_not_mix(rng):
    x = rng.normal(size=(4, 400, 40, 50))
    x[1, :, 7, 11] += 3
    x[..., 30, 49] = 0.1 * np.cumsum(x[..., 30, 49], axis=1)
    case = make_case(rng, sites={"mu": rng.normal(size=(4, 400)), "x": x})
    found = written(case, [parameters, chains])
    section = found["parameters"]
    table = tables(section)[0]
    assert len(table.rows) == 2001
    assert table.searchable
    names = [table.rows[i][0] for i in table.flagged]
    assert {"x[7,11]", "x[30,49]"} <= set(names)
    assert {w["name"] for w in section.data["worst"][:2]} == {"x[7,11]", "x[30,49]"}
    worst = found["chains"].data["worst"]
    findings = {w["name"]: w["finding"] for w in worst}
    assert findings["x[7,11]"] == "chain 1 lies above the others"
    # Not only elements of the one site.
    assert "mu" in findings


def test_draws_in_a_store_are_read_in_parts(rng, tmp_path, monkeypatch):
    values = rng.normal(size=(4, 50, 6, 5))
    store = DrawStore(tmp_path / "draws", digest("run"), digest("round"))
    store.write({"x": values}, {"x": ("a", "b")}, 0)
    stored = store.finish(["x"], 50)["x"]
    inside = make_case(rng, sites={"x": values}, card={})
    posterior = xr.Dataset({"x": lazy_variable(("chain", "draw", "a", "b"), stored)})
    outside = Case(xr.DataTree.from_dict({"posterior": posterior}), inside.diagnostics, {})
    whole = elements_of(inside)
    monkeypatch.setattr(statistics, "_PART", 4 * 50 * 7)
    parts = [part for part, _ in parts_of(posterior["x"].variable)]
    assert [(p.start, p.stop) for p in parts] == [(5 * i, 5 * i + 5) for i in range(6)]
    found = elements_of(outside)
    assert found is elements_of(outside)
    for name in ("mean", "sd", "low", "rhat", "bulk", "tail", "mean_error", "sd_error"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9)
    assert found.names == whole.names


def test_parts_are_in_order_also_where_one_row_is_too_large(rng, monkeypatch):
    values = rng.normal(size=(2, 10, 3, 4, 5))
    variable = xr.Variable(("chain", "draw", "a", "b", "c"), values)
    flat = values.reshape(2, 10, -1)
    for size in (1, 3, 5, 12, 20, 1000):
        monkeypatch.setattr(statistics, "_PART", 20 * size)
        places = []
        for part, found in parts_of(variable):
            np.testing.assert_array_equal(found, flat[:, :, part])
            assert found.shape[2] <= size
            places += range(part.start, part.stop)
        assert places == list(range(60))


def test_constants_are_told_and_not_judged(rng):
    sites = {"mu": rng.normal(size=(4, 100)), "fixed": np.ones((4, 100, 2))}
    found = written(make_case(rng, sites=sites, card={}), [parameters, chains])
    section = found["parameters"]
    assert section.data["constant"] == 2
    assert "2 of them constant" in words(section)
    rows = tables(section)[0].rows
    assert rows[1][:3] == ("fixed[0]", 1.0, 0.0)
    assert np.isnan(rows[1][5])
    assert {w["name"] for w in found["chains"].data["worst"]} == {"mu"}
    only = make_case(rng, sites={"fixed": np.ones((4, 100))}, stats={"lp": None}, card={})
    assert chains(only) is None


@pytest.mark.parametrize("draws", [1, 2, 3, 5, 30])
def test_few_draws(rng, draws):
    found = written(make_case(rng, draws=draws))
    table = tables(found["parameters"])[0]
    assert len(table.flagged) == len(table.rows)
    assert np.isfinite([row[1:3] for row in table.rows]).all()
    assert ("chains" in found) == (draws >= 4)


def test_a_single_chain(rng):
    found = written(make_case(rng, chains=1), [parameters, chains])
    assert not tables(found["parameters"])[0].flagged
    assert np.isnan(tables(found["parameters"])[0].rows[0][5])
    assert "rank" not in words(found["chains"])
    assert {w["finding"] for w in found["chains"].data["worst"]} == {"nothing stands out"}


def test_draws_of_an_approximation_have_no_r_hat(rng):
    case = make_case(rng, stats={"log_q": rng.normal(size=(4, 1000))})
    section = parameters(case)
    assert not any("ESS" in c or c == "R-hat" for c in tables(section)[0].columns)
    assert chains(case) is None


def test_only_sampled_continuous_sites_are_judged_by_the_error_of_their_sd(rng):
    """Student t with 1.5 degrees of freedom has no variance."""
    sites = {name: rng.standard_t(1.5, size=(4, 1000)) for name in ("mu", "ratio")}
    flagged = tables(parameters(make_case(rng, sites=sites)))[0].flagged
    assert flagged == (0,)


def test_thresholds_are_those_of_the_verdict(rng):
    """The table flags an element exactly where the verdict would name it."""
    sites = {"mu": rng.normal(size=(4, 1000))}
    sites["mu"][0] += 0.25
    case = make_case(rng, sites=sites)
    value = case.diagnostics["rhat"].value
    assert (value >= RHAT) == bool(tables(parameters(case))[0].flagged)


# ---------------------------------------------------------------------- chains


def traced(draws):
    found = elements_of_array(draws)
    return Traced("x", draws, *found)


def elements_of_array(draws):
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"x": (("chain", "draw"), draws)})})
    found = elements_of(Case(tree, Diagnostics(()), {}))
    return float(found.rhat[0]), float(found.bulk[0]), float(found.tail[0])


def test_what_chains_did_is_said(rng):
    draws = rng.normal(size=(4, 500))
    assert finding(traced(draws)) == "the chains agree"
    apart = draws.copy()
    apart[2] -= 3
    assert finding(traced(apart)) == "chain 2 lies below the others"
    groups = draws.copy()
    groups[:2] += 8
    said = finding(traced(groups))
    assert "chains 2, 3 lie below the others" in said
    assert "chains 0, 1 lie above the others" in said
    narrow = draws * np.array([1, 0.2, 1, 1])[:, None]
    assert "chain 1 lies closer together than the others" in finding(traced(narrow))
    still = draws.copy()
    still[3] = 0.1
    assert finding(traced(still)) == "chain 3 does not move"
    assert "not finite" in finding(traced(np.where(draws > 2, np.inf, draws)))
    resting = draws.copy()
    resting[1, 100:200] = resting[1, 100]
    assert finding(traced(resting)) == "chain 1 has the same value for 100 draws on end"
    binary = (draws > 2.2).astype(float)
    assert "same value" not in finding(traced(binary))
    walk = np.cumsum(rng.normal(size=(4, 500)), axis=1)
    assert finding(traced(walk)) != "the chains agree"


def test_chains_that_agree_are_seldom_said_to_lie_apart():
    """200 times 4 autocorrelated chains: fewer than one in a thousand is accused, one may be."""
    draws = np.random.default_rng(0).normal(size=(200, 4, 300))
    for t in range(1, 300):
        draws[..., t] = 0.6 * draws[..., t - 1] + 0.8 * draws[..., t]
    accused = [" lie" in finding(Traced("x", values, 1.0, 300.0, 300.0)) for values in draws]
    assert sum(accused) <= 1


def test_chains_apart_come_first_and_the_log_density_with_them(rng):
    sites = {"mu": rng.normal(size=(4, 1000)), "theta": rng.normal(size=(4, 1000, 3))}
    sites["theta"][3, :, 1] += 20
    lp = rng.normal(size=(4, 1000))
    lp[3] -= 50
    section = written(make_case(rng, sites=sites, stats={"lp": lp}), [chains])["chains"]
    names = [w["name"] for w in section.data["worst"]]
    assert "theta[1]" in names[:2]
    assert "log density" in names
    assert "theta[1]: chain 3 lies above the others" in words(section)


def test_a_stuck_chain_has_an_infinite_r_hat(rng):
    sites = {"mu": rng.normal(size=(4, 1000))}
    sites["mu"][1] = 0.3
    found = written(make_case(rng, sites=sites, card={}), [parameters, chains])
    assert tables(found["parameters"])[0].rows[0][5] == np.inf
    assert found["parameters"].data["worst"][0]["rhat"] is None
    assert found["chains"].data["worst"][0]["finding"] == "chain 1 does not move"


def test_many_chains(rng):
    sites = {"mu": rng.normal(size=(40, 200))}
    sites["mu"][17] += 2
    section = written(make_case(rng, sites=sites, card={}), [chains])["chains"]
    assert "8 of 40 chains" in words(section)
    assert "chain 17 lies above" in section.data["worst"][0]["finding"]


def test_an_outline_keeps_what_sticks_out(rng):
    values = rng.normal(size=5000)
    values[1234], values[4321] = 40, -40
    places, kept = outline(values, 100)
    assert len(kept) == 200
    assert {1234, 4321} <= set(places)
    assert (np.diff(places) >= 0).all()
    np.testing.assert_array_equal(values[places], kept)


# ----------------------------------------------------------------- divergences


def funnel(rng, draws=1000):
    scale = rng.normal(0, 3, size=(4, draws))
    x = rng.normal(size=(4, draws, 9)) * np.exp(scale / 2)[..., None]
    diverging = (scale < -5) & (rng.random(scale.shape) < 0.5)
    return {"other": rng.normal(size=(4, draws)), "scale": scale, "x": x}, diverging


def test_divergences_in_the_neck_of_a_funnel(rng):
    sites, diverging = funnel(rng)
    case = make_case(rng, sites=sites, stats={"diverging": diverging}, card={})
    section = written(case, [divergences])["divergences"]
    assert section.data["count"] == diverging.sum()
    assert sum(section.data["by_chain"]) == diverging.sum()
    names = [w["name"] for w in section.data["where"]]
    assert "scale" in names[:2]
    assert any(name.startswith("x[") for name in names[:2])
    assert "scale is smaller" in words(section)
    assert "target_accept" in words(section)
    assert len(figures(section)) == 1


def test_divergences_without_a_place(rng):
    diverging = rng.random((4, 1000)) < 0.05
    case = make_case(rng, stats={"diverging": diverging})
    assert "not in a place of their own" in words(written(case, [divergences])["divergences"])
    every = make_case(rng, stats={"diverging": np.ones((4, 1000), bool)})
    assert "Every transition diverged" in words(written(every, [divergences])["divergences"])


def test_one_divergence_and_one_parameter(rng):
    diverging = np.zeros((4, 1000), bool)
    diverging[1, 3] = True
    sites = {"mu": rng.normal(size=(4, 1000))}
    section = written(make_case(rng, sites=sites, stats={"diverging": diverging}), [divergences])[
        "divergences"
    ]
    assert section.data["by_chain"] == [0, 1, 0, 0]
    assert "too few to tell" in words(section)
    assert not figures(section)


def test_separation_is_a_divergence_of_normal_distributions(rng):
    """1/2 (shift^2 + ratio - 1 - log ratio), with five draws' worth of the ratio 1."""
    draws = rng.normal(size=(50_000, 2))
    draws[:5000] = 0.25 * draws[:5000] + (2, 0)
    total = draws.var(axis=0)
    own = draws[:5000].var(axis=0)
    ratio = (5000 * own / total + 5) / 5005
    shift = (draws[:5000].mean(axis=0) - draws.mean(axis=0)) ** 2 / total
    expected = 0.5 * (shift + ratio - 1 - np.log(ratio))
    np.testing.assert_allclose(separation(draws[:5000], draws), expected)
    assert separation(draws[5000:5001], draws).max() < 10


# ---------------------------------------------------------------------- energy


def test_a_chain_whose_energy_mixes_slowly_is_named(rng):
    values = rng.normal(size=(4, 1000))
    values[2] = np.cumsum(rng.normal(size=1000)) / 10
    section = written(make_case(rng, stats={"energy": values}), [energy])["energy"]
    assert "in chain 2" in words(section)
    low = [f < section.data["threshold"] for f in section.data["ebfmi"]]
    assert low == [False, False, True, False]
    # Independent energies have 2, give or take 0.1.
    assert section.data["ebfmi"][0] == pytest.approx(2, abs=0.4)


def test_energy_that_cannot_be_judged(rng):
    values = rng.normal(size=(4, 1000))
    values[0, 0] = np.inf
    assert "not finite" in energy(make_case(rng, stats={"energy": values})).missing
    assert "the same" in energy(make_case(rng, stats={"energy": np.ones((4, 1000))})).missing
    values = rng.normal(size=(4, 1000))
    values[1] = 3
    section = written(make_case(rng, stats={"energy": values}), [energy])["energy"]
    assert section.data["ebfmi"][1] is None
    assert "in chain 1" in words(section)


def test_trajectories_that_are_cut(rng):
    depth = np.where(rng.random((4, 1000)) < 0.4, 10, 6)
    section = written(make_case(rng, stats={"tree_depth": depth}), [tree_depth])["tree-depth"]
    assert section.data["depths"] == {"6": int((depth == 6).sum()), "10": int((depth == 10).sum())}
    assert section.data["cut"] == pytest.approx((depth == 10).mean())
    assert "metric='dense'" in words(section)
    calm = written(make_case(rng), [tree_depth])["tree-depth"]
    assert "metric='dense'" not in words(calm)


def test_samplers_without_trees(rng):
    card = {"method": {"name": "hmc", "info": {"max_tree_depth": 0}}}
    assert tree_depth(make_case(rng, card=card)) is None
    assert tree_depth(make_case(rng, stats={"tree_depth": np.zeros((4, 1000), int)})) is None


# ----------------------------------------------------------------------- graph


def test_the_model_as_table_and_graph(rng):
    section = written(make_case(rng), [model])["model"]
    assert section.data["kinds"] == {"latent": 3, "observed": 1}
    assert section.data["unknowns"] == 5
    assert ["tau", "theta"] in section.data["edges"]
    rows = {row[0]: row for row in tables(section)[0].rows}
    assert rows["theta"][4:] == ("3", "school (3)")
    svg = figures(section)[0].svg
    assert svg.count("<ellipse") == 4
    assert svg.count('fill-opacity="0.16"') == 1
    assert "school · 3" in svg
    assert svg.count("<title>") == 4


def site(name, kind="latent", parents=(), plates=(), distribution="Normal"):
    return {
        "name": name,
        "kind": kind,
        "shape": [],
        "distribution": distribution,
        "support": "",
        "plates": list(plates),
        "parents": list(parents),
    }


def model_of(rng, *sites):
    case = make_case(rng, card={"model": {"name": "m", "sites": list(sites)}}, draws=4)
    return written(case, [model])["model"]


def test_other_kinds_and_names_that_are_markup(rng):
    section = model_of(
        rng,
        site("a<b&c"),
        site("k", "discrete"),
        site("derived " * 20, "deterministic", ["a<b&c"], distribution=""),
        site("extra", "factor", ["k"]),
    )
    svg = figures(section)[0].svg
    assert "a&lt;b&amp;c" in svg
    assert svg.count("<ellipse") == 2
    assert svg.count("stroke-dasharray") == 1
    assert "squares" in words(section)


def test_a_large_model_has_no_graph(rng):
    section = model_of(rng, site("mu"), *(site(f"x{i}", parents=["mu"]) for i in range(40)))
    assert not figures(section)
    assert "41 sites" in words(section)
    assert tables(section)[0].searchable


def test_a_model_that_is_known_by_its_sites_only(rng):
    section = model_of(rng, site("mu"), site("y", "observed"))
    assert not figures(section)
    assert "bayes.load" in section.missing
    assert not model_of(rng, site("mu"), site("tau")).missing
