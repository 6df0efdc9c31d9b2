"""The command line of surrogates: training, fitting with a file, what is wrong with either."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import bayes
from bayes import cli, cli_surrogates
from bayes.gallery import load_file
from bayes.surrogates.files import load_surrogate

MODEL = """
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(level + x, 1.0), obs=y)
"""
DATA = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0.5, 1.0, 2.5, 4.0]}
TINY = ["--steps", 40, "--components", 2, "--set", "width=8", "--set", "layers=1"]
TINY += ["--set", "heads=2", "--set", "batch=16", "--set", "runtime_priors=0.0"]


def runner(folder, monkeypatch):
    """Run the command line in this process, in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def written(folder):
    (folder / "model.py").write_text(MODEL)
    (folder / "data.json").write_text(json.dumps(DATA))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained surrogate, and what was said of its training."""
    folder = written(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = runner(folder, monkeypatch)
        out = run(
            *("amortize", "model.py", "--data", "data.json", "--seed", 3, "--rows", 6, *TINY),
            *("--checkpoint", "kept", "--save", "own.safetensors"),
        )
    return folder, out


@pytest.fixture
def bayes_cli(trained, monkeypatch):
    return runner(trained[0], monkeypatch)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    return runner(written(tmp_path), monkeypatch)


def test_amortize_trains_says_how_it_went_and_saves(trained):
    folder, out = trained
    good = "\nok: " in out.stdout
    assert out.exit_code == (0 if good else 3), out.output
    assert good or "\nnot ok: " in out.stdout
    assert "gain over the prior" in out.stdout
    assert out.stdout.startswith("distribution_transformer of model: 40 steps, ")
    assert "saved to own.safetensors" in out.stdout
    assert (folder / "kept").is_dir()
    model = load_file(folder / "model.py").model
    found = bayes.load(folder / "own.safetensors", model=model)
    assert found.components == 2
    assert found.ground.layout.sources[0].rows == 6
    settings = found.training["settings"]
    assert (settings["width"], settings["batch"], settings["runtime_priors"]) == (8, 16, 0.0)


def test_fit_takes_a_file_for_a_method_and_gives_the_same_draws_to_the_bit(trained, bayes_cli):
    folder = trained[0]
    out = bayes_cli(
        *("fit", "model.py", "--data", "data.json", "--method", "own.safetensors"),
        *("--set", "draws=300", "--seed", 5, "--save", "post.zarr"),
    )
    assert out.exit_code == 0, out.output
    assert "distribution_transformer(draws=300" in out.stdout
    model = load_file(folder / "model.py").model
    method = load_surrogate(folder / "own.safetensors", model).replace(draws=300)
    post = bayes.fit(model, {k: np.array(v) for k, v in DATA.items()}, method, seed=5)
    stored = bayes.load(folder / "post.zarr")
    np.testing.assert_array_equal(stored.draws("level"), post.draws("level"))


def test_the_same_seed_trains_the_same_file(trained, bayes_cli):
    folder = trained[0]
    again = ["amortize", "model.py", "--data", "data.json", "--seed", 3, "--rows", 6, *TINY]
    bayes_cli(*again, "--save", "again.safetensors")
    model = load_file(folder / "model.py").model
    one, two = (load_surrogate(folder / f"{n}.safetensors", model) for n in ("own", "again"))
    (first, about), (second, _) = one.parts(), two.parts()
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    assert about["checks"] == two.checks
    assert about["training"]["steps"] == 40


WRONG = {
    "missing": (["--method", "no.safetensors"], r"no\.safetensors does not exist"),
    "no surrogate": (["--method", "./data.json"], "data.json is cut short, or no safetensors"),
    "option": (
        ["--method", "own.safetensors", "--set", "width=3"],
        "--set width=3: expected option=value with an option of own.safetensors: draws, route$",
    ),
    "value": (["--method", "own.safetensors", "--set", "route=any"], "route must be one of"),
    "by name": (["--method", "distribution_transformer"], "train it first"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_methods_are_one_line_on_stderr(bayes_cli, arguments, message):
    out = bayes_cli("fit", "model.py", "--data", "data.json", *arguments)
    assert (out.exit_code, out.stdout) == (2, "")
    assert out.stderr.startswith("bayes: ")
    assert re.search(message, out.stderr.strip())


def test_a_file_of_another_program_is_refused(trained, bayes_cli):
    (trained[0] / "other.py").write_text(MODEL.replace("Normal(0, 1)", "Normal(0, 2)"))
    out = bayes_cli("fit", "other.py", "--data", "data.json", "--method", "own.safetensors")
    assert (out.exit_code, out.stdout) == (2, "")
    assert "own.safetensors was trained for another program" in out.stderr


MISTAKES = {
    "suffix": (["--save", "x.zarr"], r"--save x.zarr: a surrogate is a \.safetensors file"),
    "foreign": (["--save", "mine.safetensors"], "mine.safetensors is not overwritten"),
    "unknown": (["--surrogate", "oracle"], "--surrogate oracle: there are distribution_trans"),
    "option": (["--set", "size=3"], "--set size=3: expected option=value with an option of"),
    "value": (["--components", "0"], "components"),
    "rows": (["--rows", "0"], "rows is a whole number"),
    "data": (["--data", "no.csv"], "no.csv does not exist"),
    "budget": (["--budget", "-1"], "budget is a positive number"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found_before_anything_is_trained(elsewhere, monkeypatch, arguments, message):
    def train(*_args, **_options):
        raise AssertionError("it was trained")

    monkeypatch.setattr(bayes.DistributionTransformer, "train", train)
    pathlib.Path("mine.safetensors").write_text("mine")
    given = ["amortize", "model.py"]
    given += [] if "--data" in arguments else ["--data", "data.json"]
    given += [] if "--save" in arguments else ["--save", "x.safetensors"]
    out = elsewhere(*given, *arguments)
    assert (out.exit_code, out.stdout) == (2, "")
    assert out.stderr.startswith("bayes: ")
    assert re.search(message, out.stderr)
    assert pathlib.Path("mine.safetensors").read_text() == "mine"


def test_it_has_to_be_saved_somewhere(elsewhere):
    out = elsewhere("amortize", "model.py", "--data", "data.json")
    assert out.exit_code == 2
    assert "--save" in out.stderr


def test_ctrl_c_saves_what_was_learned(trained, bayes_cli, monkeypatch):
    folder = trained[0]
    found = load_surrogate(folder / "own.safetensors", load_file(folder / "model.py").model)
    training = {**found.training, "interrupted": "keyboard"}
    monkeypatch.setattr(bayes, "amortize", lambda *_, **__: found.replace(training=training))
    out = bayes_cli("amortize", "model.py", "--data", "data.json", "--save", "cut.safetensors")
    assert out.exit_code == 130
    assert "stopped early: keyboard" in out.stdout
    assert (folder / "cut.safetensors").is_file()


def test_checks_that_are_not_passed_have_a_code_of_their_own(trained, bayes_cli, monkeypatch):
    folder = trained[0]
    found = load_surrogate(folder / "own.safetensors", load_file(folder / "model.py").model)
    failed = [{**c, "passed": False, "advice": "train for longer"} for c in found.checks["checks"]]
    checks = {**found.checks, "checks": failed}
    monkeypatch.setattr(bayes, "amortize", lambda *_, **__: found.replace(checks=checks))
    out = bayes_cli("amortize", "model.py", "--data", "data.json", "--save", "bad.safetensors")
    assert out.exit_code == 3
    assert "\nnot ok: " in out.stdout
    assert (folder / "bad.safetensors").is_file()


def test_methods_lists_the_learned_ones_apart(elsewhere):
    out = elsewhere("methods")
    assert out.exit_code == 0
    plain, learned = out.stdout.split("\nLearned from simulations of a model: bayes amortize ")
    assert "nuts: " in plain
    assert "distribution_transformer" not in plain
    assert "\ndistribution_transformer: A transformer whose tokens are" in learned
    assert "  components=8" in learned
    assert "\nsimulation_bank: " in learned


def test_help_has_examples(elsewhere):
    out = elsewhere("amortize", "--help")
    assert out.exit_code == 0
    assert "Example" in out.stdout
    assert "  bayes amortize models/eight_schools.py" in out.stdout


@pytest.mark.parametrize(
    ("method", "file"),
    [("own.safetensors", True), ("no.safetensors", True), ("nuts", False), ("./nuts", True)],
)
def test_a_name_is_no_file_whatever_lies_about(elsewhere, method, file):
    pathlib.Path("nuts").write_text("a file that has the name of a method")
    assert cli_surrogates.is_trained(method) is file
    assert not cli_surrogates.is_trained("./nothing")
