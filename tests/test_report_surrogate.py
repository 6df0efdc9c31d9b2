"""What a report says of a learned surrogate: its route, its data and its global checks."""

import json
import math

import numpy as np
import pytest
import xarray as xr

from bayes.diagnostics.checks import Diagnostics
from bayes.diagnostics.report.contents import Case, Facts, Figure, Table, Text
from bayes.diagnostics.report.report import write_report
from bayes.diagnostics.report.sections.surrogate import surrogate
from bayes.surrogates.global_checks import judge_simulations

NOTE = "covariate x reaches 9, beyond the 3 of training"


def global_checks(sd=1.0, seed=0):
    """Those of u ~ N(0, 1) seen with an error of 1, and posteriors of some width."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(400, 2))
    y = truth + rng.normal(size=truth.shape)
    draws = y[:, None] / 2 + sd * np.sqrt(0.5) * rng.normal(size=(400, 100, 2))
    z = np.square((truth - y / 2) / (sd * np.sqrt(0.5)))
    log_q = -0.5 * z.sum(-1) - 2 * math.log(sd * np.sqrt(0.5))
    log_prior = -0.5 * np.square(truth).sum(-1)
    at = -0.5 * np.square(y - truth).sum(-1), -0.5 * np.square(y[:, None] - draws).sum(-1)
    return judge_simulations(["mu", "theta[3]"], truth, draws, log_q, log_prior, *at, rng)


def a_case(known, **info):
    rng = np.random.default_rng(1)
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({"mu": (("chain", "draw"), rng.normal(size=(1, 200)))})}
    )
    given = {"independent": True, **info} | ({"surrogate": known} if known else {})
    card = {"method": {"name": "distribution_transformer", "settings": {}, "info": given}}
    return Case(tree, Diagnostics(()), card)


def words(section):
    parts = []
    for block in section.blocks:
        if isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Facts):
            parts += [f"{a}: {b}" for a, b in block.rows]
        elif isinstance(block, (Figure, Table)):
            parts.append(block.caption)
    return "\n".join(parts)


def of(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def test_other_methods_have_none():
    assert surrogate(a_case(None)) is None


def test_route_distance_and_evidence_are_said():
    known = {"route": "adapted", "distance": 1.25, "distance_limit": 3.0, "notes": []}
    info = {"rounds": 3, "scores_matched": True, "log_evidence": -12.3456}
    ratios = {"khat": 0.31, "ess": 1500.4, "candidates": 4000}
    case = a_case(known, **info, log_evidence_error=0.021, importance=ratios)
    section = surrogate(case)
    text = words(section)
    for phrase in (
        "Route adapted",
        "fitted to the scores",
        "weighted moments 3 times",
        "k-hat was 0.31, and 4000 candidates were worth 1500 independent draws",
        "1.25 (limit 3): the data are like those of training",
        "Log evidence: -12.346 ± 0.021",
    ):
        assert phrase in text
    assert section.data["log_evidence"] == -12.3456
    assert "without them" in section.missing


@pytest.mark.parametrize("distance", [4.0, math.nan])
def test_data_unlike_those_of_training_are_flagged(distance):
    known = {"route": "raw", "distance": distance, "distance_limit": 3.0}
    section = surrogate(a_case({**known, "out_of_range": [NOTE], "notes": [NOTE]}))
    assert "unlike those of training" in words(section)
    assert words(section).count("reaches 9") == 1
    assert section.data["notes"] == [NOTE]


def test_nuts_tells_what_came_before():
    known = {"route": "nuts", "reason": "importance weights could not correct the draws"}
    text = words(surrogate(a_case(known, approximation={"rounds": 8, "scores_matched": False})))
    assert "NUTS went on from them" in text
    assert "moved to weighted moments 8 times" in text
    assert "Why this one: importance weights could not" in text


def test_global_checks_are_shown_by_element():
    found = global_checks()
    assert found.ok
    section = surrogate(a_case({"route": "psis", "checks": found.to_dict()}))
    verdicts, elements = of(section, Table)
    assert [row[3] for row in verdicts.rows] == ["passed"] * 4
    assert not verdicts.flagged
    assert [row[0] for row in elements.rows] == ["mu", "theta[3]", "log likelihood"]
    assert elements.rows[1][5] == found.elements["90%"][1]
    assert math.isnan(elements.rows[2][5])
    assert f"{found.gain:.3g} ± " in words(section)
    assert not section.missing
    assert len(of(section, Figure)) == 1
    assert "none leaves the band" in of(section, Figure)[0].caption


def test_a_surrogate_that_fails_is_not_praised():
    found = global_checks(sd=0.5)
    section = surrogate(a_case({"route": "psis", "checks": found.to_dict()}))
    assert "It failed Ranks (SBC), Coverage" in words(section)
    assert section.data["checks"]["sbc"] is False
    assert 0 in of(section, Table)[0].flagged
    assert "leave the band" in of(section, Figure)[0].caption
    narrow = of(section, Table)[1].rows[0][3]
    # A factor of two is understated; an exact one would be 1.4 with probability below 1e-6.
    assert 1.4 < narrow < 2.3


def test_the_whole_page(tmp_path):
    known = {"route": "psis", "distance": 1.0, "distance_limit": 3.0}
    case = a_case({**known, "checks": global_checks().to_dict()})
    made = write_report(case, "Made up")
    section = next(s for s in made.sections if s.name == "surrogate")
    assert not section.missing
    made.save(tmp_path / "report.html")
    assert "Joint coverage (TARP)" in (tmp_path / "report.html").read_text()
    assert json.loads(json.dumps(made.to_dict(), allow_nan=False))["sections"]["surrogate"]
