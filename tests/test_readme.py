"""The README's example runs as it stands, and says what it promises."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs_and_is_near_the_exact_value():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    estimate, exact = names["estimate"], float(names["truth"].llc)
    assert abs(estimate.value - exact) < 0.1 * exact
    assert 0 < estimate.std_error < 0.05 * exact


def test_the_recipe_is_one(tmp_path):
    from sltjax.sweeps.recipe import read_recipe

    recipe, options = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "recipe.toml").write_text(recipe)
    assert read_recipe(tmp_path / "recipe.toml").checkpoints.select == "params"
    (tmp_path / "recipe.toml").write_text(recipe + options)
    assert read_recipe(tmp_path / "recipe.toml").devices.model == 2
