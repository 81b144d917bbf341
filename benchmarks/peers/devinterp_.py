"""devinterp on a task: `python devinterp_.py task.npz`, then requests on standard input.

It takes sequences of tokens: a sequence here is the number of an example, and the loss looks the example up.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from devinterp.slt.sampling import sample
from tasks import mean_loss, read, serve

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
disable_progress_bars()
model, x, y, losses, settings = read(sys.argv[1])
at_anchor = mean_loss(model, x, y, losses)
numbers = Dataset.from_dict({"input_ids": [[k, k] for k in range(len(x))]}).with_format("torch")


def loss(model, input_ids):
    chosen = input_ids[:, 0]
    return losses(model(x[chosen]), y[chosen])[:, None]


def run(chains, draws, burn_in, seed):
    with tempfile.TemporaryDirectory() as folder:
        found = sample(
            model,
            numbers,
            {},
            lr=settings["step_size"],
            n_beta=settings["nbeta"],
            localization=settings["gamma"],
            num_chains=chains,
            num_draws=draws,
            num_burnin_steps=burn_in,
            num_init_loss_batches=1,
            batch_size=settings["batch_size"],
            init_seed=seed,
            device="cpu",
            output_path=Path(folder) / "samples.zarr",
            loss_fn=loss,
        )
        seen = found.dataset.sampling_loss_micro.mean(dim=["batch_sampling", "token_pos"])
        return (settings["nbeta"] * (seen[:, burn_in:].mean(dim="step") - at_anchor)).values.tolist()


serve(run)
