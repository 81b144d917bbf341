import json

import numpy as np
import pytest
from typer.testing import CliRunner

import sltjax
from sltjax.cli import app
from sltjax.demo import FULL, Size, exact_llc, plateaus, problem, run_demo, train

STAIRCASE = [18, 22, 25.5, 29, 32]


def test_training_passes_every_rank():
    size = Size(num_checkpoints=12, every=400, num_chains=2, num_draws=4)
    run = [({f"layer_{i}": w for i, w in enumerate(params)}, step) for step, params in train(problem(), size)]
    levels = [float(exact_llc(params, problem().data)) for params, _ in run]
    assert levels == sorted(levels)
    assert levels[0] == 18
    assert levels[-1] == 32


def check(dataset, tolerance, cap):
    assert [exact for exact, _, _ in plateaus(dataset)] == STAIRCASE
    for exact, value, error in plateaus(dataset):
        assert abs(value - exact) < tolerance * exact, (exact, value)
        assert error < cap * exact


@pytest.mark.slow
def test_every_plateau_is_right_and_every_transition_found(tmp_path):
    dataset = run_demo(tmp_path, FULL, progress=False)
    assert dataset.sizes["checkpoint"] >= 60
    assert dataset.sizes["chain"] >= 4
    check(dataset, 0.10, 0.05)
    stages = sltjax.stages(dataset)
    assert stages["exact_delta_llc"].tolist() == np.diff(STAIRCASE).tolist()
    assert (stages["kind"] == "A").all()
    assert np.allclose(stages["delta_llc"], stages["exact_delta_llc"], atol=1.0)
    assert json.loads(dataset.attrs["definition"])["nbeta"] == pytest.approx(2e4 / np.log(2e4))


@pytest.mark.slow
def test_the_quick_setting_of_the_command_is_rough_but_right(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--quick", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.output
    assert "plateaus" in done.output
    assert (tmp_path / "demo" / "report.html").stat().st_size > 0
    check(sltjax.open_results(tmp_path / "demo" / "results"), 0.15, 0.15)
