import pytest

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
        (GOOD + "chains = 3", "checkpoints.chains: unknown key; expected one of path, select"),
        (GOOD + "[sampling]\nnum_chain = 3", "did you mean num_chains?"),
        (GOOD.replace('path = "checkpoints"', ""), "checkpoints.path: missing"),
        (GOOD.replace("recipe_model:loss", "recipe_model.loss"), 'expected an import path "module:name"'),
        (GOOD.replace("[checkpoints]", "nbeta = -1\n[checkpoints]"), "problem.nbeta: Input should be greater than 0"),
        (GOOD + "[sampling]\nnum_chains = 1", "sampling.num_chains"),
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
