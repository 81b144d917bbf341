import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from sources import SOURCES

from sltjax.samplers import SGHMC, SGLD, RMSProp, rademacher
from sltjax.sweeps.engines import local
from sltjax.sweeps.recipe import RecipeError, read_recipe

GOOD = """
store = "out"
[problem]
loss = "recipe_model:loss"
data = "recipe_model:data"
[checkpoints]
path = "checkpoints"
"""


def written(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_defaults_and_relative_paths(tmp_path):
    recipe = read_recipe(written(tmp_path, GOOD))
    assert recipe.store_path == tmp_path / "out"
    assert recipe.problem.nbeta is None
    assert recipe.problem.gamma == 1.0
    assert recipe.sampling.num_chains == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("store", "stroe"), "stroe: unknown key; did you mean store?"),
        (GOOD.replace("data =", "dta ="), "problem.dta: unknown key; did you mean data?"),
        (GOOD + "chains = 3", "checkpoints.chains: unknown key; expected one of format, path, rename, sel"),
        (GOOD + "renam = {}", "checkpoints.renam: unknown key; did you mean rename?"),
        (GOOD + 'format = "orbx"', "checkpoints.format: Input should be 'orbax', 'safetensors' or 'npz', got 'orbx'"),
        (GOOD + 'rename = "f"', 'checkpoints.rename: Value error, expected an import path "module:name", got "f"'),
        (GOOD + "rename = { a = 3 }", "checkpoints.rename: Value error, expected a table of patterns"),
        (GOOD + "rename = ['a']", "checkpoints.rename: Value error, expected a table of patterns"),
        (GOOD + 'transform = "f"', 'checkpoints.transform: Value error, expected an import path "module:name"'),
        (GOOD + "[sampling]\nnum_chain = 3", "did you mean num_chains?"),
        (GOOD.replace('path = "checkpoints"', ""), "checkpoints.path: missing"),
        (GOOD.replace("recipe_model:loss", "recipe_model.loss"), 'expected an import path "module:name"'),
        (GOOD.replace("[checkpoints]", "nbeta = -1\n[checkpoints]"), "problem.nbeta: Input should be greater than 0"),
        (GOOD + "[sampling]\nnum_chains = 1", "sampling.num_chains"),
        (GOOD + "[devices]\nchains = 2", "devices.chains: unknown key; did you mean chain?"),
        (GOOD + '[engine]\nname = "rya"', "engine.name: Input should be 'local' or 'ray'"),
        (GOOD + "[engine]\nretry = 2", "engine.retry: unknown key; did you mean retries?"),
        (GOOD.replace("[checkpoints]", 'observables = ["wbicc"]\n[checkpoints]'), "did you mean 'wbic'?"),
        (GOOD.replace("[checkpoints]", "observables = 3\n[checkpoints]"), "expected a list of diagnostics and"),
        ("store = ", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, said):
    with pytest.raises(RecipeError, match="recipe") as caught:
        read_recipe(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="there is no recipe"):
        read_recipe(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("path", ["no_such_module_at_all:loss", "math:no_such_name"])
def test_import_paths_that_lead_nowhere(tmp_path, path):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(RecipeError, match=path):
        read_recipe(written(tmp_path, GOOD.replace("recipe_model:loss", path))).run()


# Checkpoints

NAMES = """
import numpy as np

def rename(name):
    return None if name.endswith("mask") else name.replace("h.", "blocks/")

def transform(name, array):
    return array.T if name.endswith("weight") else array

def params():
    return {"blocks": [{"weight": np.zeros((3, 2)), "bias": np.zeros(3)}]}
"""
TENSORS = {
    "h.0.weight": np.arange(6.0).reshape(2, 3),
    "h.0.bias": np.ones(3),
    "h.0.mask": np.ones((3, 3), bool),
}


@pytest.mark.parametrize("name", SOURCES)
def test_formats_are_recognised(tmp_path, name):
    SOURCES[name].write_run(tmp_path / "checkpoints")
    recipe = read_recipe(written(tmp_path, GOOD))
    assert recipe.checkpoints_format == {"orbax": "orbax", "npz": "npz"}.get(name.split()[0], "safetensors")
    assert recipe.source().steps == (2, 10, 100)


def test_of_several_formats_one_must_be_named(tmp_path):
    for name in ("safetensors files", "npz folders"):
        SOURCES[name].write_run(tmp_path / "checkpoints", steps=(1, 3))
    with pytest.raises(RecipeError, match=r"checkpoints\.format: .* several formats \(safetensors, npz\): say which"):
        read_recipe(written(tmp_path, GOOD)).source()
    assert read_recipe(written(tmp_path, GOOD + 'format = "npz"')).source().steps == (1, 3)


def test_nothing_to_recognise(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoints, which does not exist"):
        read_recipe(written(tmp_path, GOOD)).source()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_1.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"step_1\.pt: it is a pickle.*Convert pickles to safetensors"):
        read_recipe(written(tmp_path, GOOD)).source()


@pytest.mark.parametrize(
    "rename",
    [
        "rename = { '.*mask' = '', 'h\\.(.*)' = 'blocks/\\1' }",
        'rename = "recipe_names:rename"',
        "[checkpoints.rename]\n'.*mask' = ''\n'h\\.(.*)' = 'blocks.\\1'",
    ],
)
@pytest.mark.parametrize("params", ["", 'params = "recipe_names:params"\n'])
def test_tensors_are_renamed_and_transformed(tmp_path, rename, params):
    (tmp_path / "recipe_names.py").write_text(NAMES)
    (tmp_path / "checkpoints").mkdir()
    save_file(TENSORS, tmp_path / "checkpoints" / "step_7.safetensors")
    text = GOOD.replace("[checkpoints]", f"{params}[checkpoints]") + 'transform = "recipe_names:transform"\n' + rename
    (block,) = read_recipe(written(tmp_path, text)).source().load(7)["blocks"]
    np.testing.assert_array_equal(block["weight"], TENSORS["h.0.weight"].T)
    assert set(block) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("orbax", "rename = { a = 'b' }", "checkpoints.rename: is not for orbax checkpoints, which take select"),
        (
            "npz files",
            'select = "params"',
            "checkpoints.select: is not for npz checkpoints, which take rename and tran",
        ),
        ("npz files", 'rename = "no_such_module:f"', '"no_such_module:f": No module named'),
    ],
)
def test_keys_of_another_format(tmp_path, name, key, said):
    SOURCES[name].write_run(tmp_path / "checkpoints", steps=(1,))
    with pytest.raises(RecipeError, match=said):
        read_recipe(written(tmp_path, GOOD + key)).source()


def test_paths_of_buckets_are_not_of_the_folder(tmp_path):
    recipe = read_recipe(written(tmp_path, GOOD.replace('"checkpoints"', '"s3://bucket/run"')))
    assert recipe.checkpoints_path == "s3://bucket/run"
    assert read_recipe(written(tmp_path, GOOD)).checkpoints_path == tmp_path / "checkpoints"


def sampler_of(folder, table):
    return read_recipe(written(folder, GOOD + "[sampling.sampler]\n" + table)).sampling.sampler.build()


def test_a_sampler_by_its_name(tmp_path):
    assert sampler_of(tmp_path, 'name = "SGLD"\nstep_size = 1e-5') == SGLD(1e-5)
    text = 'name = "SGHMC"\nstep_size = 0.1\nnoise = "rademacher"\npreconditioner = { name = "rmsprop", decay = 0.9 }'
    assert sampler_of(tmp_path, text) == SGHMC(0.1, noise=rademacher, preconditioner=RMSProp(0.9))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('name = "SGDL"\nstep_size = 1e-5', "there is no 'SGDL'; did you mean SGLD?"),
        ('name = "SGLD"\nstep = 1e-5', "SGLD cannot be made of that"),
    ],
)
def test_a_sampler_that_cannot_be_made(tmp_path, table, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        sampler_of(tmp_path, table)


def test_an_engine_by_its_name(tmp_path):
    recipe = read_recipe(written(tmp_path, GOOD + '[engine]\nname = "ray"\nnum_gpus = 0.5\nretries = 1'))
    engine = recipe.engine.build(tmp_path)
    assert (engine.num_gpus, engine.retries) == (0.5, 1)
    assert engine.environment["PYTHONPATH"].split(":")[0] == str(tmp_path)
    assert read_recipe(written(tmp_path, GOOD)).engine.build(tmp_path) is local
