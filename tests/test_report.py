"""Reports: all formats say the same; a page fetches nothing and runs no script but its own."""

import base64
import hashlib
import html
import json
import math
import re
import warnings

import numpy as np
import pytest
import xarray as xr

import bayes
from bayes.diagnostics.checks import Check, Diagnostics
from bayes.diagnostics.report import cells, page
from bayes.diagnostics.report import sections as home
from bayes.diagnostics.report.contents import Case, Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.report import Report, write_report

NASTY = '<script>alert("1")</script>&amp;"\'</style>'
SVG = '<svg viewBox="0 0 360 200" xmlns="http://www.w3.org/2000/svg"><path d="M0 0 L9 9"/></svg>'
GOOD = Diagnostics((Check("rhat", 1.003, 1.01, True), Check("ess_bulk", 900.0, 400.0, True)))
BAD = Diagnostics(
    (
        Check("rhat", float("nan"), 1.01, False, "chains have not mixed; run longer"),
        Check("ess_bulk", 900.0, 400.0, True),
    ),
    "budget",
    ("a note",),
)


def sections(rows=3):
    lines = tuple((f"theta[{i}]", 0.1 * i, i if i % 2 else None, "text") for i in range(rows))
    return (
        Section(
            "draws",
            "Draws",
            (
                Text("A paragraph."),
                Facts((("seed", "1"), ("method", "nuts"))),
                Table(("", "mean", "count", "what"), lines, "A table.", True, (1,)),
                Figure(SVG, "A caption.", "A rising line."),
            ),
            data={"mean": np.float64(1.5), "nothing": float("nan"), "array": np.arange(3)},
        ),
        Section("loo", "Leave-one-out", missing="there is no log likelihood"),
    )


def made(diagnostics=GOOD, parts=None, card=None):
    return Report("A title", diagnostics, sections() if parts is None else parts, card or {})


# ------------------------------------------------------------------------ formats


def test_every_format_says_verdict_sections_and_what_is_missing(tmp_path):
    card = {"model": {"name": "schools"}, "method": {"name": "nuts", "seed": 3}, "thinned": "loo"}
    report = made(BAD, card=card)
    assert not report.ok
    assert report.verdict == BAD.verdict
    assert str(report) == report.markdown()
    for suffix in (".html", ".md", ".json"):
        report.save(tmp_path / "folder" / f"report{suffix}")
        text = (tmp_path / "folder" / f"report{suffix}").read_text("utf-8")
        for said in ("there is no log likelihood", "hains have not mixed; run longer"):
            assert said in text
        assert "budget" in text
        if suffix != ".json":
            assert "Computed at fewer draws: loo." in text
            assert "Not ok: 1 of 2 checks failed; the run was stopped early (budget)" in text
            assert "model schools · nuts · seed 3" in re.sub("</li><li>", " · ", text)
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "report.html", "report.json", "report.md",
    ]  # fmt: skip


def test_json_is_strict_and_has_the_numbers(tmp_path):
    made(BAD).save(tmp_path / "report.json")

    def refuse(word):
        raise ValueError(word)

    values = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert values["schema"] == 1
    assert values["ok"] is False
    assert [c["value"] for c in values["checks"]] == [None, 900.0]
    found = values["sections"]["draws"]["data"]
    assert found == {"mean": 1.5, "nothing": None, "array": [0, 1, 2]}
    assert values["sections"]["loo"]["missing"] == "there is no log likelihood"


def test_markdown_has_tables_that_line_up_and_figures_in_words():
    text = made().markdown()
    assert "# A title" in text
    assert "**Ok: all 2 checks passed**" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert [c.strip() for c in lines[0].split("|")[1:-1]] == ["", "mean", "count", "what"]
    assert [c.strip() for c in lines[3].split("|")[1:-1]] == ["! theta[1]", "0.100", "1", "text"]
    assert "*Figure:* A rising line." in text
    assert "*Missing:* there is no log likelihood" in text
    many = made(parts=sections(200)).markdown()
    assert "30 of 200 rows" in many


@pytest.mark.parametrize("name", ["report.pdf", "report", "folder.html", "file.md/report.html"])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file.md").write_text("")
    with pytest.raises(bayes.SettingsError, match=r"\.html|folder|cannot be written"):
        made().save(tmp_path / name)


def test_saving_replaces_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def fails(report):
        raise RuntimeError("no page")

    monkeypatch.setattr(page, "page", fails)
    with pytest.raises(RuntimeError, match="no page"):
        made().save(path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    report = made()
    shown = report._repr_html_()
    assert 'sandbox="allow-scripts"' in shown
    assert html.unescape(shown.partition('srcdoc="')[2].rpartition('"')[0]) == report.html()


# ---------------------------------------------------------------------- the page


def test_the_page_escapes_everything():
    section = Section(
        NASTY,
        NASTY,
        (
            Text(NASTY),
            Facts(((NASTY, NASTY),)),
            Table((NASTY, NASTY), ((NASTY, NASTY), (NASTY, 1.0)), NASTY, True, (0,)),
            Table((NASTY, "n"), tuple((NASTY, i) for i in range(600)), NASTY, True, (0,)),
            Figure(SVG, NASTY, NASTY),
        ),
        NASTY,
    )
    bad = Diagnostics((Check(NASTY, 1.0, 0.0, False, NASTY),), NASTY, (NASTY,))
    card = {"model": {"name": NASTY}, "method": {"name": NASTY}, "versions": {NASTY: NASTY}}
    text = Report(NASTY, bad, (section,), card).html()
    scripts = re.findall(r"<script[^>]*>", text)
    assert scripts == ['<script type="application/json">', "<script>"]
    assert len(re.findall("</script>", text)) == 2
    assert len(re.findall("</style>", text)) == 1
    assert "alert(&#34;1&#34;)" in text
    stored = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(stored)["cells"][0][0] == NASTY
    assert "<script" not in re.sub(r"\\<", "", Report(NASTY, bad, (section,), card).markdown())


def test_the_page_fetches_nothing():
    text = made().html()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none';")
    links = re.findall(r"https?://[^\s\"'<)]+", text)
    assert set(links) <= {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"<(?:link|img|iframe|object|embed)\b|@import|url\(", text)


def test_the_policy_allows_the_pages_own_script_and_no_other():
    text = made().html()
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in text


def test_the_page_has_landmarks_headings_and_labels():
    text = made().html()
    for part in ("<header", "<nav aria-label", "<main", "<footer", '<html lang="en">'):
        assert text.count(part) == 1
    assert re.findall(r"<h(\d)", text) == ["1", "2", "2", "2"]
    assert 'role="img" aria-label="A rising line."' in text
    assert "<figcaption>A caption.</figcaption>" in text
    assert text.count('scope="col"') == 4
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert text.count(f'id="{anchor}"') == 1


def test_long_tables_are_drawn_by_the_script_and_stay_small():
    rows = tuple((f"effect[{i}]", *(math.sin(i * j) for j in range(1, 11))) for i in range(10_000))
    long = Table(("", *map(str, range(10))), rows, "", True, (9_000,))
    text = made(parts=(Section("a", "A", (long,)),)).html()
    assert len(text) < 1_500_000
    assert len(re.findall("<tr", text)) < 60
    stored = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    data = json.loads(stored)
    assert [len(c) for c in data["cells"]] == [10_000] * 11
    assert data["flagged"] == [9_000]
    assert "<noscript>" in text
    assert "first 50 of 10000 rows" in text


def test_too_much_is_left_out_and_said():
    rows = tuple((f"effect[{i}]", 0.5) for i in range(100_000))
    long = Table(("", "mean"), rows, "", True, (99_999,))
    big = Figure(SVG.replace("M0 0", "M0 0" + " L1 1" * 600_000), "Large.", "A large drawing.")
    text = made(parts=(Section("a", "A", (long, big, Figure(SVG, "Small.", "")), data={}),)).html()
    assert len(text) < 5_000_000
    assert "of 100000 rows are here: those flagged, and the first" in text
    assert "effect[99999]" in text
    assert "A figure of 3.0 MB is left out to keep the page small. A large drawing." in text
    assert "Small." in text


# ------------------------------------------------------------------------- digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.00312, "1.003"), (0.050712, "0.0507"), (1234.56, "1235"), (12.3456, "12.35"),
        (4.0, "4"), (7, "7"), (0.0, "0"), (-3.14159, "-3.142"), (1.23e-9, "1.2e-09"),
        (3.21e9, "3.21e+09"), (float("nan"), "—"), (float("inf"), "∞"), (-float("inf"), "-∞"),
    ],
)  # fmt: skip
def test_numbers_have_the_digits_a_reader_needs(value, text):
    assert cells.number(value) == text


def test_numbers_of_a_column_have_the_same_decimals():
    rows = tuple((v, np.float64(v), n) for v, n in ((1.5, 1), (0.25, None), (1e-5, 30)))
    first, second, third = cells.columns_of(Table(("a", "b", "c"), rows))
    assert first.cells == ["1.500", "0.250", "1e-05"]
    assert second.cells == first.cells
    assert third.cells == ["1", "—", "30"]
    assert first.numeric
    assert third.numeric


def test_flagged_rows_come_first_where_not_all_can_be_shown():
    long = Table(("a",), tuple((i,) for i in range(9)), flagged=(8, 4))
    assert cells.chosen_rows(long, 4) == [0, 1, 4, 8]
    assert cells.chosen_rows(long, 1) == [8] or cells.chosen_rows(long, 1) == [4]


# ------------------------------------------------------------------------ sections


def test_a_section_that_fails_says_why_and_the_others_are_there(monkeypatch):
    def energy(case):
        raise ValueError("no energy\nmore")

    def warned(case):
        warnings.warn_explicit(
            "Coordinates do not match.", UserWarning, "site/arviz_stats/loo.py", 1
        )
        warnings.warn_explicit("Deprecated.", FutureWarning, "site/arviz_stats/loo.py", 2)
        warnings.warn_explicit("Tight layout.", UserWarning, "site/matplotlib/figure.py", 3)
        return Section("warned", "Warned", (Text("here"),))

    monkeypatch.setattr(home, "SECTIONS", (energy, lambda case: None, warned))
    case = Case(xr.DataTree(), GOOD, {})
    report = write_report(case, "A title")
    assert [s.name for s in report.sections] == ["energy", "warned"]
    assert report.sections[0].missing == "could not be computed: ValueError: no energy"
    assert report.sections[1].missing == "ArviZ warns: Coordinates do not match"
    assert report.sections[1].blocks == (Text("here"),)
