"""What a report says of draws of an approximation: raw, resampled, or where chains started."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats as st
import xarray as xr
from models_for_tests import SCHOOLS_DATA, schools

import bayes
from bayes.diagnostics.approximations import judge_independent
from bayes.diagnostics.checks import Check, Diagnostics
from bayes.diagnostics.importance import importance_ratios
from bayes.diagnostics.report.check_words import words_of
from bayes.diagnostics.report.contents import Case, Facts, Figure, Text
from bayes.diagnostics.report.report import write_report
from bayes.diagnostics.report.sections.approximation import approximation
from bayes.diagnostics.report.sections.chains import chains
from bayes.diagnostics.report.sections.overview import checks
from bayes.diagnostics.report.sections.parameters import parameters
from bayes.inference.resampling import resample
from bayes.method import Draws


def a_case(x, scale, *, weighted=False, info=None):
    """Draws of a normal of some scale for a standard normal posterior, and what is judged of it."""
    given = {"independent": True, "route": "raw", "not_converged": "", **(info or {})}
    values = {"x": x[None]}
    log_p, log_q = st.norm.logpdf(x).sum(-1), st.norm.logpdf(x, 0, scale).sum(-1)
    draws = Draws(values, {"lp": log_p[None]}, 1, x[None], log_q[None], given)
    if weighted:
        draws = resample(draws, np.array([1, 2], np.uint32))
    stats = {"lp": draws.stats["lp"], "log_q": draws.log_q}
    verdict = judge_independent(draws.values, stats, {**draws.info, "sampled": ["x"]})
    sizes = ("chain", "draw", "k")
    groups = {
        "posterior": xr.Dataset({"x": (sizes, draws.values["x"])}),
        "sample_stats": xr.Dataset({k: (sizes[:2], v) for k, v in stats.items()}),
    }
    if draws.candidates is not None:
        groups["importance"] = xr.Dataset(
            {k: ("candidate", v) for k, v in draws.candidates.items()}
        )
    card = {"method": {"name": "toy", "settings": {}, "info": draws.info}}
    return Case(xr.DataTree.from_dict(groups), verdict, card), importance_ratios(log_p, log_q)


def words(section):
    """All text of a section, with its facts and captions."""
    parts = []
    for block in section.blocks:
        if isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Facts):
            parts += [f"{a}: {b}" for a, b in block.rows]
        elif isinstance(block, Figure):
            parts.append(block.caption)
    return "\n".join(parts)


def test_resampled_draws_are_judged_by_what_they_were_chosen_from(rng):
    """At the chosen draws alone the ratios of a narrow approximation have another tail."""
    case, known = a_case(0.8 * rng.normal(size=(4000, 2)), 0.8, weighted=True)
    section = approximation(case)
    assert section.data["khat"] == pytest.approx(known.khat, rel=1e-4)
    assert section.data["ess"] == pytest.approx(known.ess, rel=1e-4)
    at_draws = importance_ratios(*(case.tree["sample_stats"][k].values for k in ("lp", "log_q")))
    assert abs(at_draws.ess - known.ess) > 100
    text = words(section)
    assert "These 4000 draws were chosen from 4000 candidates" in text
    assert "Log importance ratios of what the draws were chosen from" in text
    assert "refine='psis'" not in text
    assert case.diagnostics["khat"].value == pytest.approx(known.khat)
    json.dumps(section.data, allow_nan=False)


def test_fewer_draws_than_candidates(rng):
    case, _ = a_case(1.1 * rng.normal(size=(1000, 2)), 1.1, weighted=True)
    fewer = {
        g: case.tree[g].to_dataset().isel(draw=slice(400)) for g in ("posterior", "sample_stats")
    }
    tree = xr.DataTree.from_dict({**fewer, "importance": case.tree["importance"].to_dataset()})
    section = approximation(dataclasses.replace(case, tree=tree))
    assert "These 400 draws were chosen from 1000 candidates" in words(section)
    assert section.data["draws"] == 1000


def test_candidates_without_density_are_counted(rng):
    case, _ = a_case(1.1 * rng.normal(size=(1000, 2)), 1.1, weighted=True)
    case.tree["importance"]["lp"][:10] = -np.inf
    section = approximation(case)
    assert section.data["not_finite"] == 10
    assert "10 draws have no finite log density" in words(section)


def test_raw_draws_that_are_too_wide_are_not_praised(rng):
    """k-hat of a wide approximation is good: the checks of its moments object."""
    case, known = a_case(1.5 * rng.normal(size=(4000, 2)), 1.5)
    assert known.khat < 0.5
    assert [check.name for check in case.diagnostics.failed] == ["sd_shift"]
    text = words(approximation(case))
    assert "covers the posterior well" not in text
    assert "The standard deviation of x[" in text
    assert case.diagnostics["sd_shift"].value == pytest.approx(0.5, abs=0.1)
    change = 100 * case.diagnostics["sd_shift"].value
    assert f"largest change of an sd by the weights: {change:.2g} % of it" in text
    good, _ = a_case(1.05 * rng.normal(size=(4000, 2)), 1.05)
    assert "covers the posterior well, and reweighting" in words(approximation(good))


def test_drift_under_moves_is_said(rng):
    moves = {
        "acceptance": 0.9,
        "particles": 256,
        "unknowns": 30,
        "mean_shift": 0.61,
        "mean_shift_of": "tau",
        "sd_shift": 0.05,
        "sd_shift_of": "theta[2]",
    }
    case, _ = a_case(1.02 * rng.normal(size=(4000, 2)), 1.02, info={"moves": moves})
    assert [check.name for check in case.diagnostics.failed] == ["moved_mean_shift"]
    section = approximation(case)
    text = words(section)
    assert "The mean of tau drifted most, by 0.61 standard deviations" in text
    assert "there is mass where the approximation has none" in text
    assert "covers the posterior well" not in text
    assert section.data["moves"]["mean_shift"] == 0.61


def test_a_method_that_has_not_converged_is_not_praised(rng):
    info = {"not_converged": "steps ran out before the objective was level"}
    text = words(approximation(a_case(1.02 * rng.normal(size=(2000, 2)), 1.02, info=info)[0]))
    assert "Steps ran out before the objective was level." in text
    assert "covers the posterior well" not in text
    exact = words(approximation(a_case(rng.normal(size=(2000, 2)), 1.0, info=info)[0]))
    assert "is the posterior" not in exact


def test_a_heavy_tail_of_nearly_equal_ratios_is_no_objection(rng):
    """Ratios all within a percent or so, but for a few: their tail is heavy and does not matter."""
    case, _ = a_case(rng.normal(size=(4000, 2)), 1.0)
    noise = np.exp(-np.abs(rng.standard_cauchy(size=(1, 4000)))) * 1e-3
    noise[0, :40] = np.log1p(0.02 / rng.uniform(0.01, 1.0, size=40))
    case.tree["sample_stats"]["lp"] += noise
    khat = Check("khat", 0.9, 0.7, True, "the ratios' tail is heavy, but all are nearly equal")
    text = words(approximation(dataclasses.replace(case, diagnostics=Diagnostics((khat,)))))
    assert "so nearly equal" in text
    assert "misses part of the posterior" not in text
    failed = dataclasses.replace(khat, passed=False)
    text = words(approximation(dataclasses.replace(case, diagnostics=Diagnostics((failed,)))))
    assert "misses part of the posterior" in text


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_of_chains_is_said_of_independent_draws(weighted, rng):
    case, _ = a_case(1.05 * rng.normal(size=(2000, 2)), 1.05, weighted=weighted)
    assert chains(case) is None
    table = next(b for b in parameters(case).blocks if hasattr(b, "columns"))
    assert not {"R-hat", "bulk ESS", "tail ESS"} & set(table.columns)
    made = write_report(case, "toy")
    for text in ("R-hat", "bulk ESS", "chains agree"):
        assert text not in made.markdown()


def test_every_check_of_an_approximation_has_words(rng):
    raw = {"moves": {"unknowns": 30, "particles": 256}}
    for name in ("mean_shift", "sd_shift"):
        raw["moves"] |= {name: 0.0, f"{name}_of": "x[0]"}
    seen = set()
    for weighted in (False, True):
        case, _ = a_case(1.05 * rng.normal(size=(500, 2)), 1.05, weighted=weighted, info=raw)
        seen |= {check.name for check in case.diagnostics.checks}
        assert checks(case).data["checks"]
    wanted = {"objective", "khat", "importance_ess", "mean_shift", "sd_shift"}
    assert seen == wanted | {"moved_mean_shift", "moved_sd_shift", "finite"}
    for name in seen:
        label, relation, meaning = words_of(name)
        assert relation
        assert meaning
        assert "_" not in label


def test_chains_that_started_from_an_approximation(rng):
    case, _ = a_case(rng.normal(size=(500, 2)), 1.0)
    stats = case.tree["sample_stats"].to_dataset().drop_vars("log_q")
    tree = xr.DataTree.from_dict(
        {"posterior": case.tree["posterior"].to_dataset(), "sample_stats": stats}
    )
    known = {"not_converged": "no maximum was found", "objective": list(np.arange(50.0))}
    card = {"method": {"name": "vi", "info": {"route": "nuts", "approximation": known}}}
    section = approximation(Case(tree, case.diagnostics, card))
    assert "NUTS chains started from the approximation" in words(section)
    assert "no maximum was found" in words(section)
    assert section.data == {"route": "nuts", "approximation_converged": False}
    assert sum(isinstance(block, Figure) for block in section.blocks) == 1
    plain = {"method": {"name": "nuts", "info": {}}}
    assert approximation(Case(tree, case.diagnostics, plain)) is None


def test_bounds_of_several_paths_are_no_trace(rng):
    """They come in the order of the paths: nothing has to be level at the end."""
    bounds = list(rng.normal(size=8))
    x = rng.normal(size=(500, 2))
    paths, _ = a_case(x, 1.0, info={"objective": bounds, "elbo_by_path": bounds})
    trace, _ = a_case(x, 1.0, info={"objective": bounds, "elbo_by_path": bounds[:4]})
    counts = [sum(isinstance(b, Figure) for b in approximation(c).blocks) for c in (paths, trace)]
    assert counts == [1, 2]


def test_draws_of_no_weight_do_not_stretch_the_picture(rng):
    """Far from the mass log densities are huge; one candidate in 100 of heavy tails is there."""
    case, _ = a_case(1.1 * rng.normal(size=(1000, 2)), 1.1, weighted=True)
    case.tree["importance"]["lp"][:10] = -1e9
    text = words(approximation(case))
    assert "10 draws further left, of next to no weight, are not shown" in text
    spread = next(row for row in text.splitlines() if row.startswith("spread of"))
    assert "between its 5 % and 95 % quantiles" in spread
    assert float(spread.split()[7]) < 10


def test_a_whole_report_of_the_ladder(tmp_path):
    """Eight schools, non-centred: resampled draws, ok, and nothing of R-hat anywhere."""
    post = bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=0)
    made = post.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    count = post.method.info["importance"]["candidates"]
    assert f"These 2000 draws were chosen from {count} candidates" in page
    assert "Effective draws under importance weights" in page
    for text in ("R-hat", "bulk ESS"):
        assert text not in made.markdown()
    section = next(s for s in made.sections if s.name == "approximation")
    assert section.data["ess"] == pytest.approx(post.method.info["importance"]["ess"], rel=1e-4)
    post.save(tmp_path / "post.zarr")
    again = bayes.load(tmp_path / "post.zarr", model=schools)
    for name in ("lp", "log_q"):
        np.testing.assert_array_equal(again.data["importance"][name], post.data["importance"][name])
    assert again.method.info["importance"] == post.method.info["importance"]
    assert again.diagnostics == post.diagnostics
