"""canonical-interp on a task: `python canonical_interp.py task.npz`, then requests on standard input."""

import itertools
import sys
from pathlib import Path


def batched(iterable, size):
    """itertools.batched of Python 3.12."""
    iterator = iter(iterable)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch


itertools.batched = batched
sys.path.remove(str(Path(__file__).parent))  # this file has the package's name

import logging  # noqa: E402

import torch  # noqa: E402
from canonical_interp.slt import LLCEstimator  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

sys.path.append(str(Path(__file__).parent))
from tasks import mean_loss, read, serve  # noqa: E402

torch.backends.cuda.enable_flash_sdp(False)  # on CPUs, too: it takes second derivatives, which flash attention lacks
logging.disable(logging.WARNING)
model, x, y, losses, settings = read(sys.argv[1])
at_anchor = mean_loss(model, x, y, losses)
loader = DataLoader(TensorDataset(x, y), batch_size=settings["batch_size"], shuffle=True, drop_last=True)


def criterion(outputs, y):
    return losses(outputs, y).mean()


def run(chains, draws, burn_in, seed):
    estimator = LLCEstimator(
        draws=draws,
        chains=chains,
        burnin_steps=burn_in,
        learning_rate=settings["step_size"],
        localization=settings["gamma"],
        nbeta=settings["nbeta"],
    )
    options = {"criterion_fn": criterion, "seed": seed, "show_progress": False, "current_loss": at_anchor}
    estimator.estimate_llc(model, loader, **options, compile=True)
    return estimator.get_metrics()["llcs"].tolist()


serve(run)
