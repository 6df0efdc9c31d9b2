"""The report's page in a browser: its tables sort, filter and page; it fits a phone; no error."""

import html
import json
import re
import shutil
import subprocess

import pytest

from bayes.diagnostics.checks import Check, Diagnostics
from bayes.diagnostics.report.contents import Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.report import Report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--virtual-time-budget=5000",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}")

# Runs before everything else on the page.
LISTEN = """
window.errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
for (const level of ["error", "warn"]) {
  console[level] = (...words) => errors.push(words.join(" "));
}
"""

# Runs after everything else; `act` gives what the test looks at.
ACT = """
const tick = (element, kind) => element.dispatchEvent(new Event(kind, { bubbles: true }));
const box = (place) => document.querySelectorAll("[data-searchable]")[place];
const column = (box, place) => [...box.querySelectorAll("tbody tr:not([hidden])")]
  .map((row) => row.cells[place].firstChild?.textContent ?? "");
const head = (box, place) => box.querySelectorAll("thead th")[place];
const press = (box, place) => head(box, place).querySelector("button").click();
const button = (box, text) => [...box.querySelectorAll(".controls button")]
  .find((button) => button.textContent === text);
const count = (box) => box.querySelector("output").textContent;
function type(box, text) {
  const field = box.querySelector("input[type=search]");
  field.value = text;
  tick(field, "input");
}
let found;
try {
  found = (() => { %s })();
} catch (error) {
  errors.push(String(error.stack));
}
const result = parent.document.createElement("pre");
result.id = "result";
result.textContent = JSON.stringify({ found, errors });
parent.document.body.append(result);
"""


def look(tmp_path, report, act, width=None):
    """What a script finds on the page of a report, after the page's own script has run.

    With a width, the page is in a frame: a window is not as narrow as a phone.
    """
    text = report.html()
    text, changed = re.subn(r"'sha256-[^']+'", "'unsafe-inline'", text, count=1)
    assert changed == 1
    text = text.replace("<style>", f"<script>{LISTEN}</script><style>", 1)
    text = text.replace("</body>", f"<script>{ACT % act}</script></body>", 1)
    if width is not None:
        style = f"width:{width}px;height:900px;border:0"
        text = f'<body><iframe style="{style}" srcdoc="{html.escape(text)}"></iframe>'
    found = re.search(r'<pre id="result">(.*?)</pre>', dump(tmp_path, text), re.DOTALL)
    assert found
    values = json.loads(html.unescape(found[1]))
    assert values["errors"] == []
    return values["found"]


def dump(tmp_path, text):
    """The document that a browser makes of a page."""
    path = tmp_path / "page.html"
    path.write_text(text, "utf-8")
    profile = f"--user-data-dir={tmp_path / 'browser'}"
    command = [str(BROWSER), *OPTIONS, profile, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def a_table(rows):
    """Names, numbers with gaps and of both signs, and counts."""
    values = [float("nan") if i % 7 == 3 else (-1) ** i * (i * 37 % 101) / 8 for i in range(rows)]
    lines = tuple((f"effect[{i}]", v, i * 2) for i, v in enumerate(values))
    return Table(("parameter", "mean", "count"), lines, "Effects.", True, (5, 12))


def a_report(*tables):
    svg = (
        '<svg viewBox="0 0 640 300" xmlns="http://www.w3.org/2000/svg">'
        '<path d="M0 0 L640 300" stroke="currentColor"/></svg>'
    )
    facts = Facts((("settings", "a" * 200), ("seed", "1")))
    wide = Table(tuple(f"column {i}" for i in range(20)), (tuple(range(20)),))
    blocks = (Text("word " * 80), facts, Figure(svg, "Caption.", "A line."), wide, *tables)
    parts = tuple(Section(f"part-{i}", f"Part {i}", blocks if i == 0 else ()) for i in range(12))
    checks = (Check("rhat", 1.2, 1.01, False, "run longer " * 20), Check("chains", 4.0, 2.0, True))
    return Report("Posterior of " + "x" * 60, Diagnostics(checks), parts, {})


def numbers(texts):
    return [float("nan") if t == "—" else float(t) for t in texts]


@pytest.mark.parametrize("rows", [120, 700], ids=["in the page", "drawn by the script"])
def test_a_table_sorts_by_number_with_gaps_last(tmp_path, rows):
    act = """
      const table = box(0), states = [];
      button(table, "Show all").click();
      for (let press_ = 0; press_ < 3; press_++) {
        press(table, 1);
        states.push([head(table, 1).getAttribute("aria-sort"), column(table, 1)]);
      }
      return states;
    """
    up, down, back = look(tmp_path, a_report(a_table(rows)), act)
    assert (up[0], down[0], back[0]) == ("ascending", "descending", None)
    values = numbers([str(row[1]) for row in a_table(rows).rows])
    given = sorted(v for v in values if v == v)
    gaps = len(values) - len(given)
    assert numbers(up[1])[: len(given)] == pytest.approx(given, abs=0.006)
    assert numbers(down[1])[: len(given)] == pytest.approx(given[::-1], abs=0.006)
    assert up[1][len(given) :] == down[1][len(given) :] == ["—"] * gaps
    assert numbers(back[1]) == pytest.approx(values, abs=0.006, nan_ok=True)


def test_names_sort_by_their_numbers(tmp_path):
    act = "const table = box(0); press(table, 0); press(table, 0); return column(table, 0);"
    found = look(tmp_path, a_report(a_table(120)), act)
    assert found == [f"effect[{i}]" for i in range(119, 69, -1)]


@pytest.mark.parametrize("rows", [120, 700], ids=["in the page", "drawn by the script"])
def test_a_table_filters_and_pages(tmp_path, rows):
    act = """
      const table = box(0), found = {};
      found.first = [count(table), column(table, 0).length];
      button(table, "Next").click();
      found.second = [count(table), column(table, 0)[0]];
      type(table, "EFFECT[1");
      found.filtered = [count(table), column(table, 0).every((name) => name.includes("[1"))];
      type(table, "nothing like it");
      found.none = [count(table), column(table, 0).length];
      type(table, "");
      const only = table.querySelector("input[type=checkbox]");
      only.checked = true;
      tick(only, "change");
      found.flagged = [count(table), column(table, 0)];
      return found;
    """
    found = look(tmp_path, a_report(a_table(rows)), act)
    ones = sum(str(i).startswith("1") for i in range(rows))
    assert found == {
        "first": [f"Rows 1–50 of {rows}", 50],
        "second": [f"Rows 51–100 of {rows}", "effect[50]"],
        "filtered": [f"Rows 1–{min(ones, 50)} of {ones} (filtered from {rows})", True],
        "none": [f"No row matches (filtered from {rows})", 0],
        "flagged": [f"Rows 1–2 of 2 (filtered from {rows})", ["effect[5]", "effect[12]"]],
    }


def test_ten_thousand_rows_are_drawn_a_page_at_a_time(tmp_path):
    act = """
      const table = box(0);
      press(table, 2);
      press(table, 2);
      return [count(table), column(table, 2)[0], document.querySelectorAll("tr").length];
    """
    shown, largest, lines = look(tmp_path, a_report(a_table(10_000)), act)
    assert shown == "Rows 1–50 of 10000"
    assert largest == "19998"
    assert lines < 100


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_the_page_does_not_scroll_sideways(tmp_path, width):
    act = """
      const root = document.documentElement;
      const wide = [...document.querySelectorAll("body *")]
        .filter((e) => !e.closest(".scroll, .skip, script, noscript"))
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5)
        .map((e) => `${e.tagName}.${e.className}`);
      const box = document.querySelector(".table .scroll");
      return [innerWidth, root.scrollWidth <= innerWidth, wide, box.scrollWidth > box.clientWidth];
    """
    found = look(tmp_path, a_report(a_table(60)), act, width)
    assert found == [width, True, [], True]


def test_the_policy_stops_scripts_that_are_not_the_pages_own(tmp_path):
    figure = Figure("<svg><script>document.title = 'x'</script></svg>", "", "")
    report = Report("A title", Diagnostics(()), (Section("a", "A", (figure,)),), {})
    assert "<title>A title</title>" in dump(tmp_path, report.html())
