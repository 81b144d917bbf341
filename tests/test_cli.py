import os
import platform
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from orbax import checkpoint as ocp
from typer.testing import CliRunner

import sltjax
from sltjax.cli import FLAGGED, INTERRUPTED, PARTIAL, app
from sltjax.sweeps.recipe import RecipeError, read_recipe

MODEL = """
import jax.numpy as jnp
import numpy as np

def apply(params, batch):
    return batch["x"] @ params["a"] @ params["b"]

import sltjax
loss = sltjax.behavioral_loss(apply)

def data():
    x = np.random.default_rng(0).normal(size=(64, 3))
    return {"x": jnp.asarray(x, jnp.float32)}

def half():
    return {"x": data()["x"][:32]}

def norm(params, data):
    return jnp.linalg.norm(params["a"] @ params["b"])
"""

RECIPE = """
title = "A tiny run"
[problem]
loss = "cli_model:loss"
data = "cli_model:data"
metrics = { norm = "cli_model:norm" }
[checkpoints]
path = "checkpoints"
[sampling]
num_draws = DRAWS
batch_size = 32
block_size = 4
"""


@pytest.fixture
def run_folder(tmp_path):
    """A user's folder: a module, a recipe, ten Orbax checkpoints."""
    (tmp_path / "cli_model.py").write_text(MODEL)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("DRAWS", "50"))
    rng = np.random.default_rng(1)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        for step in range(0, 100, 10):
            weights = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(2, 3))}
            saved = {"params": {name: np.float32(w) for name, w in weights.items()}, "opt_state": np.ones(3)}
            manager.save(step, args=ocp.args.StandardSave(saved))
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def break_checkpoint(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"<html>404</html>")


def test_run_writes_everything_and_resumes(run_folder):
    result = invoke("run", run_folder / "recipe.toml")
    assert result.exit_code == 0, result.output
    results = run_folder / "results"
    for name in ("dataset.nc", "stages.csv", "development.png", "report.html", "manifest.json"):
        assert (results / name).stat().st_size > 0
    with sltjax.open_results(results) as dataset:
        assert dataset["step"].values.tolist() == list(range(0, 100, 10))
        assert np.isfinite(dataset["llc"]).all()
        assert dataset["norm"].attrs["role"] == "metric"
    assert "A tiny run" in (results / "report.html").read_text()

    units = {path: path.stat().st_mtime_ns for path in (results / "units").iterdir()}
    assert len(units) == 10
    assert invoke("run", run_folder / "recipe.toml").exit_code == 0
    assert units == {path: path.stat().st_mtime_ns for path in (results / "units").iterdir()}

    (results / "report.html").unlink()
    assert invoke("report", results).exit_code == 0
    recipe = (run_folder / "recipe.toml").read_text()
    assert (results / "recipe.toml").read_text() == recipe
    assert recipe.strip() in unescape((results / "report.html").read_text())


def test_a_broken_checkpoint_makes_it_partial(run_folder):
    break_checkpoint(run_folder / "checkpoints" / "30")
    result = invoke("run", run_folder / "recipe.toml")
    assert result.exit_code == PARTIAL, result.output
    with sltjax.open_results(run_folder / "results") as dataset:
        failed = dataset["status"] == "failed"
        assert dataset["step"].values[failed].tolist() == [30]
        assert np.isnan(dataset["llc"].values[failed]).all()
        assert np.isfinite(dataset["llc"].values[~failed]).all()
        assert str(dataset["verdict"].values[failed][0]) != ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('path = "checkpoints"', 'path = "nowhere"'), "nowhere"),
        (("batch_size = 32", "batch_size = 65"), "64 examples"),
        (('loss = "cli_model:loss"', 'loss = "cli_model:norm"'), "one loss an example"),
    ],
)
def test_mistakes_end_in_a_sentence(run_folder, change, said):
    recipe = run_folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(*change))
    result = invoke("run", recipe)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_another_definition_is_refused_with_the_difference(run_folder):
    recipe = run_folder / "recipe.toml"
    assert invoke("run", recipe).exit_code == 0
    before = (run_folder / "results" / "dataset.nc").read_bytes()
    recipe.write_text(recipe.read_text().replace("[checkpoints]", "gamma = 5.0\n[checkpoints]"))
    result = invoke("run", recipe)
    assert result.exit_code == 1
    assert "definition.gamma: stored 1.0, asked 5.0" in result.output
    assert (run_folder / "results" / "dataset.nc").read_bytes() == before


def started(run_folder):
    """A run of many draws, as a process, when its first units are there."""
    (run_folder / "recipe.toml").write_text(RECIPE.replace("DRAWS", "20000"))
    command = [sys.executable, "-m", "sltjax", "run", str(run_folder / "recipe.toml")]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, text=True)
    units = run_folder / "results" / "units"
    deadline = time.monotonic() + 240
    while not (units.is_dir() and any(units.glob("*.npz"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process, units


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_keeps_what_is_done_and_says_so(run_folder, number):
    """Trust 2."""
    process, units = started(run_folder)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert "the same command goes on from here" in errors.strip().splitlines()[-1]
    assert 4 <= len(list(units.glob("*.npz"))) < 10
    with sltjax.open_results(run_folder / "results") as so_far:
        assert so_far.sizes["checkpoint"] == len(list(units.glob("*.npz")))


def test_a_second_signal_exits_at_once():
    """Trust 2."""
    code = """
import os, signal, time
from sltjax.cli import _interruptible
with _interruptible():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        print("tidying up", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (INTERRUPTED, "tidying up\n")
    assert time.monotonic() - began < 50


def test_strict_exits_non_zero_where_an_estimate_is_flagged(run_folder):
    """Trust 13: 50 draws are too few."""
    assert invoke("run", run_folder / "recipe.toml").exit_code == 0
    assert invoke("run", run_folder / "recipe.toml", "--strict").exit_code == FLAGGED


def test_plan_says_what_a_run_will_take(run_folder):
    (run_folder / "checkpoints" / "notes").mkdir()
    result = invoke("plan", run_folder / "recipe.toml")
    assert result.exit_code == 0, result.output
    for said in ("10, steps 0 to 90; 0 done already", "notes: it is an empty folder", "12 parameters", "3 of 4"):
        assert said in result.output
    assert not (run_folder / "results").exists()


@pytest.mark.slow
def test_calibrate_settles_what_run_goes_on_with(run_folder):
    recipe = run_folder / "recipe.toml"
    recipe.write_text(RECIPE.replace("num_draws = DRAWS", "max_chain_steps = 20000").replace("batch_size = 32\n", ""))
    result = invoke("calibrate", recipe)
    assert result.exit_code == 0, result.output
    assert "GHMC, 4 chains of" in result.output
    assert (run_folder / "results" / "calibration.png").stat().st_size > 10_000
    assert "lengths are not settled" not in invoke("plan", recipe).output
    again = invoke("calibrate", recipe)
    assert again.exit_code == 1


@pytest.mark.parametrize("shard", ["2/2", "x", "1"])
def test_shards_that_make_no_sense(run_folder, shard, capfd):
    assert invoke("run", run_folder / "recipe.toml", "--shard", shard).exit_code == 1


def test_a_shard_says_how_far_all_are(run_folder):
    first = invoke("run", run_folder / "recipe.toml", "--shard", "0/2")
    assert first.exit_code == 0, first.output
    assert "this shard is done; 6 of 10 checkpoints are there so far" in first.output
    second = invoke("run", run_folder / "recipe.toml", "--shard", "1/2")
    assert second.exit_code == 0
    assert (run_folder / "results" / "report.html").exists()


def test_a_part_that_is_none_is_told_before_anything_is_sampled(run_folder):
    recipe = run_folder / "recipe.toml"
    recipe.write_text(recipe.read_text() + '[parts.good]\nweights = "a"\n[parts.bad]\nweights = "c"\n')
    for command in ("run", "calibrate", "plan"):
        assert invoke(command, recipe).exit_code == 1
    assert not (run_folder / "results").exists()
    with pytest.raises(RecipeError, match=r"parts\.bad\.weights: no parameter matches 'c'; there are 'a', 'b'"):
        read_recipe(recipe).run()


@pytest.mark.slow
def test_two_shards_at_once_share_one_calibration_and_the_work(run_folder):
    """They start with nothing settled: one calibrates, the other waits for it, and both write to one store."""
    command = [sys.executable, "-m", "sltjax", "run", run_folder / "recipe.toml", "--shard"]
    shards = [subprocess.Popen([*command, f"{k}/2"], stdout=subprocess.PIPE, text=True) for k in range(2)]
    said = [shard.communicate(timeout=300)[0] for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], said
    together = sltjax.open_results(run_folder / "results").load()
    assert together.step.values.tolist() == list(range(0, 100, 10))
    assert together.ok.notnull().all()
    (run_folder / "results").rename(run_folder / "shards")
    assert invoke("run", run_folder / "recipe.toml").exit_code == 0
    alone = sltjax.open_results(run_folder / "results").load()
    np.testing.assert_array_equal(together.delta_loss, alone.delta_loss)


@pytest.mark.slow
def test_parts_have_coefficients_of_their_own(run_folder):
    recipe = run_folder / "recipe.toml"
    with recipe.open("a") as file:
        file.write('[parts.row]\nweights = { b = "0" }\ndata = "cli_model:half"\n')
    result = invoke("run", recipe)
    assert result.exit_code == 0, result.output
    parts, whole = sltjax.open_parts(run_folder / "results"), sltjax.open_results(run_folder / "results")
    assert list(parts) == ["row"]
    assert (parts["row"].llc < whole.llc).all()
    assert '"num_examples": 32' in parts["row"].definition
    assert "λ̂ of each part" in (run_folder / "results" / "report.html").read_text()
    assert (run_folder / "results" / "components.png").stat().st_size > 10_000


@pytest.mark.slow
def test_diagnostics_of_a_recipe_are_columns_and_in_the_report(run_folder):
    more = """
def training_loss(params, batch):
    return jnp.sum((apply(params, batch) - batch["x"]) ** 2, axis=1) / 2

def half_norm(params, info):
    return norm(params, None) / 2
"""
    (run_folder / "cli_diagnosed.py").write_text(MODEL + more)
    text = RECIPE.replace("DRAWS", "20").replace("cli_model:loss", "cli_model:training_loss")
    asked = 'observables = ["wbic", "hessian", "influence", "susceptibility", "interactions", "cli_model:half_norm"]\n'
    parts = '[parts.in]\nweights = "a"\n[parts.out]\nweights = "b"\n'
    recipe = run_folder / "recipe.toml"
    text = text.replace("[checkpoints]", asked + "[checkpoints]").replace("cli_model", "cli_diagnosed")
    recipe.write_text(text + 'sampler = { name = "SGLD", step_size = 0.001 }\n' + parts)
    result = invoke("run", recipe)
    assert result.exit_code == 0, result.output
    whole, parts = sltjax.open_results(run_folder / "results"), sltjax.open_parts(run_folder / "results")
    assert whole.component.values.tolist() == ["in", "out"]
    for name in ("wbic", "hessian_trace", "influence", "susceptibility", "interactions", "half_norm"):
        assert np.isfinite(whole[name]).any(), name
    assert not {"interactions", "half_norm"}.intersection(parts["in"])
    assert parts["in"].susceptibility.shape == (10, 64)
    page = (run_folder / "results" / "report.html").read_text()
    for said in ("susceptibilities of parts", "interactions of parts", "influences between examples"):
        assert said in page


def test_help_names_the_commands():
    text = invoke("--help").output
    for command in ("demo", "plan", "calibrate", "run", "report"):
        assert command in text


@pytest.mark.parametrize("told", [False, True])
def test_programs_are_kept_for_the_next_call_where_jax_is_not_told_otherwise(tmp_path, told):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "told")}
    if not told:
        del environment["JAX_COMPILATION_CACHE_DIR"]
    code = "import jax; from sltjax import cli; cli._keep_programs(); print(jax.config.jax_compilation_cache_dir)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    expected = tmp_path / "told" if told else tmp_path / "sltjax" / platform.node()
    assert Path(said.stdout.strip()) == expected


def test_a_user_without_a_home_keeps_no_programs():
    gone = {"HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    code = """
import os, pwd, jax
pwd.getpwuid = lambda user: {}[user]
from sltjax import cli
cli._keep_programs()
print(jax.config.jax_compilation_cache_dir)
"""
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "None"
