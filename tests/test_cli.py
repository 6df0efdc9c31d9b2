"""The command line: exit codes, data of every format, settings, errors without tracebacks."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import bayes
from bayes import cli

ROOT = pathlib.Path(__file__).parent.parent

QUICK = ["--set", "chains=2", "--set", "warmup=300", "--set", "draws=800"]

MODEL = """
import numpyro
import numpyro.distributions as dist


def model(group, x, n_group, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("group", n_group):
        level = numpyro.sample("level", dist.Normal(0, 2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(level[group] + slope * x, 1.0), obs=y)
"""

TABLE = {
    "group": ["b", "a", "a", "b", "a", "b"],
    "x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    "y": [1.0, 0.5, 1.5, 2.5, 3.0, 4.5],
    "unused": ["t", "u", "v", "w", "x", "y"],
}


@pytest.fixture
def bayes_cli(tmp_path, monkeypatch):
    """Run the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "model.py").write_text(MODEL)

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def table(path):
    frame = pd.DataFrame(TABLE)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        path.write_text(json.dumps({k: v for k, v in TABLE.items() if k != "unused"}))
    return path


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_fit_reads_every_format_and_saves(bayes_cli, tmp_path, suffix):
    data = table(tmp_path / f"data.{suffix}")
    out = bayes_cli("fit", "model.py", "--data", data, *QUICK, "--seed", 3, "--save", "out.zarr")
    assert out.exit_code == 0, out.output
    assert "level[a]" in out.stdout
    assert "ok: all" in out.stdout
    assert "nuts(chains=2, warmup=300, draws=800" in out.stdout
    assert "saved to out.zarr" in out.stdout
    loaded = bayes.load("out.zarr")
    assert loaded.draws("level")["group"].values.tolist() == ["a", "b"]
    assert loaded.method.seed == 3
    again = bayes_cli("summary", "out.zarr")
    assert again.exit_code == 0
    assert again.stdout.split("\n\n")[0] == out.stdout.split("\n\n")[0]
    assert "... and 1 more rows" in bayes_cli("summary", "out.zarr", "--rows", 2).stdout


def test_fit_uses_the_files_own_data_dims_and_settings(bayes_cli, tmp_path):
    text = MODEL + (
        f"\n\ndef data():\n    import pandas\n    frame = pandas.DataFrame({TABLE})\n"
        "    return frame.astype({'group': 'category'})\n"
        "\n\nSETTINGS = {'reparam': 'auto'}\n"
    )
    (tmp_path / "own.py").write_text(text)
    out = bayes_cli("fit", "own.py", *QUICK, "--method", "auto")
    assert out.exit_code == 0, out.output
    assert "level[b]" in out.stdout


def test_verdict_that_is_not_ok_has_its_own_code(bayes_cli, tmp_path):
    data = table(tmp_path / "data.csv")
    few = ["--set", "chains=2", "--set", "warmup=20", "--set", "draws=20"]
    out = bayes_cli("fit", "model.py", "--data", data, *few, "--save", "out.zarr")
    assert out.exit_code == 3
    assert "not ok: " in out.stdout
    assert "FAIL" in out.stdout
    assert bayes_cli("summary", "out.zarr").exit_code == 3


def test_a_budget_that_is_too_short_is_an_error(bayes_cli, tmp_path):
    data = table(tmp_path / "data.csv")
    out = bayes_cli("fit", "model.py", "--data", data, "--budget", "1e-9")
    assert (out.exit_code, out.stdout) == (2, "")
    assert "bayes: NoDrawsError: nuts was stopped (budget) before its first draw" in out.stderr


WRONG = {
    "no such file": (["fit", "nothing.py"], "nothing.py is not a Python file that exists"),
    "not python": (["fit", "data.csv"], "data.csv is not a Python file"),
    "no model": (["fit", "empty.py"], "empty.py defines no function `model`"),
    "broken": (["fit", "broken.py"], "broken.py cannot be imported: SyntaxError"),
    "raises": (["fit", "raises.py"], r"cannot be imported: ValueError: no \(line 2\)"),
    "no data": (["fit", "model.py"], "defines no function `data`; pass --data"),
    "data fails": (["fit", "fails.py"], r"data\(\) of fails.py failed: KeyError: 'k' \(line 5\)"),
    "no table": (["fit", "model.py", "--data", "no.csv"], "no.csv does not exist"),
    "format": (["fit", "model.py", "--data", "model.py"], "data are .csv, .json or .parquet"),
    "json list": (["fit", "model.py", "--data", "list.json"], "must hold a JSON object"),
    "json broken": (["fit", "model.py", "--data", "broken.json"], "broken.json cannot be read"),
    "empty csv": (["fit", "model.py", "--data", "empty.csv"], "empty.csv cannot be read"),
    "column": (["fit", "model.py", "--data", "short.csv"], "needs 'x'"),
    "method": (["fit", "model.py", "--method", "nut"], "no method 'nut'.*did you mean 'nuts'"),
    "option": (
        ["fit", "model.py", "--set", "drws=3"],
        "--set drws=3: expected option=value.*draws",
    ),
    "no value": (["fit", "model.py", "--set", "draws"], "--set draws: expected option=value"),
    "value": (["fit", "model.py", "--set", "draws=-1"], "draws"),
    "seed": (["fit", "model.py", "--data", "data.csv", "--seed", "-1"], "seed must lie in"),
    "reparam": (["fit", "model.py", "--data", "data.csv", "--reparam", "no"], "reparam is None"),
    "save": (["fit", "model.py", "--data", "data.csv", "--save", "folder"], "is not overwritten"),
    "no posterior": (["summary", "nothing.zarr"], "nothing.zarr does not exist"),
    "foreign": (["summary", "folder"], "folder is not a posterior of bayes"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("unchecked")
def test_wrong_input_is_one_line_on_stderr(bayes_cli, tmp_path, arguments, message):
    table(tmp_path / "data.csv")
    (tmp_path / "short.csv").write_text("group,y\na,1\nb,2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("def model(:\n")
    (tmp_path / "raises.py").write_text("\nraise ValueError('no')\n")
    (tmp_path / "fails.py").write_text(
        "def model(y):\n    pass\n\ndef data():\n    return {}['k']\n"
    )
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text('{"x": [1,')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    out = bayes_cli(*arguments)
    assert out.exit_code == 2
    assert out.stdout == ""
    assert out.stderr.startswith("bayes: ")
    assert re.search(message, out.stderr)
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "Missing argument"),
        (["fit", "model.py", "--sed", "1"], "No such option"),
        (["fit", "model.py", "--seed", "one"], "Invalid value for '--seed'"),
        (["fti"], "No such command"),
    ],
)
def test_usage_errors_are_of_the_wrong_input_kind(bayes_cli, arguments, message):
    out = bayes_cli(*arguments)
    assert out.exit_code == 2
    assert message in out.stderr


def test_settings_are_literals_or_text():
    method = cli._configure("nuts", ["draws=10", "metric=dense", "target_accept=0.9"])
    assert (method.draws, method.metric, method.target_accept) == (10, "dense", 0.9)
    assert cli._configure("auto", []) == "auto"
    assert cli._configure("auto", ["draws=7"]).draws == 7


@pytest.mark.parametrize("second", [False, True], ids=["once", "twice"])
def test_ctrl_c_has_the_shells_exit_code(bayes_cli, tmp_path, monkeypatch, second):
    data = table(tmp_path / "data.csv")

    def interrupted(*args, **kwargs):
        if second:
            raise KeyboardInterrupt
        raise bayes.NoDrawsError("nuts was stopped (keyboard) before its first draw")

    monkeypatch.setattr(bayes, "fit", interrupted)
    out = bayes_cli("fit", "model.py", "--data", data)
    assert out.exit_code == 130
    assert out.stderr.startswith("bayes: ")


def test_ctrl_c_keeps_and_saves_what_is_done(bayes_cli, tmp_path, monkeypatch):
    data = table(tmp_path / "data.csv")
    fit = bayes.fit

    def interrupted(*args, **kwargs):
        post = fit(*args, **kwargs)
        post.diagnostics = dataclasses.replace(post.diagnostics, interrupted="keyboard")
        return post

    monkeypatch.setattr(bayes, "fit", interrupted)
    out = bayes_cli("fit", "model.py", "--data", data, *QUICK, "--save", "out.zarr")
    assert out.exit_code == 130
    assert "stopped early: keyboard" in out.stdout
    assert bayes.load("out.zarr").diagnostics.interrupted == "keyboard"


def test_methods_lists_names_and_settings(bayes_cli):
    out = bayes_cli("methods")
    assert out.exit_code == 0
    assert "nuts: The no-U-turn sampler" in out.stdout
    assert "  warmup=1000" in out.stdout
    assert "hmc: " in out.stdout


@pytest.mark.parametrize("command", [[], ["fit"], ["summary"], ["methods"]])
def test_help_has_examples(bayes_cli, command):
    out = bayes_cli(*command, "--help")
    assert out.exit_code == 0
    assert "Example" in out.stdout
    assert f"  bayes {' '.join(command)}" in out.stdout


def test_module_runs_as_a_program(tmp_path):
    """In a process of its own: no traceback, the right code, a warning on stderr."""
    (tmp_path / "model.py").write_text(MODEL)
    data = TABLE | {"x": [1.0] * 6}
    (tmp_path / "data.json").write_text(json.dumps({k: data[k] for k in ("group", "x", "y")}))
    few = ["--set", "chains=2", "--set", "warmup=20", "--set", "draws=20"]
    command = [sys.executable, "-m", "bayes", "fit", "model.py", "--data", "data.json", *few]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert out.returncode == 3, out.stderr
    assert "not ok" in out.stdout
    assert out.stderr.startswith("bayes: warning: column 'x' is constant")
    assert "Traceback" not in out.stderr
