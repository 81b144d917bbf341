"""What lies in a folder of checkpoints: which of its children are steps, which are not and why, and one a step."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from sltjax.checkpoints.damage import PICKLED
from sltjax.checkpoints.leaves import Path, nest
from sltjax.checkpoints.source import Skipped, digest

if TYPE_CHECKING:
    from etils import epath

STEP = re.compile(r"(?:.*[^\d.])?(\d+)")
COMMIT = re.compile(r"[0-9a-f]{40}")
TEMPORARY = re.compile(r"(?:.*[^a-z0-9])?tmp.*|.*(?:incomplete|partial|crdownload).*|.*\.part|.*~")
ARRAY = ".npy"
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")
EXTRAS = {"s3": "s3", "gs": "gcs"}
LISTED = 4


class Child(NamedTuple):
    """What may be a checkpoint.

    Attributes:
        name: as the user knows it.
        place: the file or folder where it lies.
        step: the number in its name, if it has one.
    """

    name: str
    place: "epath.Path"
    step: int | None


Found: TypeAlias = dict[int, list[Child]]
"""Checkpoints by step, ascending; more than one where names differ and steps do not."""


def open_root(path: str | os.PathLike[str]) -> "epath.Path":
    """Return where checkpoints are to be found, on a disk or in a bucket.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: paths of this kind cannot be read here; says what it takes.
        OSError: the server refuses.
    """
    from etils import epath

    scheme = os.fspath(path).partition("://")[0]
    try:
        root = epath.Path(path).expanduser()
        _forget(root)
        exists = root.exists()
    except KeyError:
        raise ValueError(f"got {path}, expected a local path or one that begins with gs:// or s3://.") from None
    except ImportError as error:
        how = f'pip install "sltjax[{EXTRAS[scheme]}]"' if scheme in EXTRAS else str(error)
        raise ValueError(f"got {path}, and what reads {scheme}:// is not installed: {how}.") from error
    except OSError:
        raise
    except Exception as error:  # clients of buckets have errors of their own, as for missing credentials
        raise OSError(f"got {path}, which cannot be looked into: {type(error).__name__}: {error}.") from error
    if not exists:
        raise FileNotFoundError(f"got {root}, which does not exist; expected a folder of checkpoints.")
    return root


def is_remote(place: "epath.Path") -> bool:
    """Return whether every look at a place is a request to a server."""
    return "://" in os.fspath(place)


def _forget(root: "epath.Path") -> None:
    """Drop what fsspec remembers of earlier listings, which would hide what was saved since."""
    from etils.epath import backend

    if is_remote(root):
        with suppress(ImportError):  # where TensorFlow reads buckets, fsspec need not be able to
            backend.fsspec_backend.fs(root).invalidate_cache()


def children(root: "epath.Path", suffix: str = "") -> list[Child]:
    """Return what lies in a folder; names of files may end in `suffix` after the step."""
    within = [child for child in root.iterdir() if not _is_itself(child, root)]
    return [Child(child.name, child, step_in(child.name.removesuffix(suffix))) for child in within]


def _is_itself(child: "epath.Path", root: "epath.Path") -> bool:
    # Consoles show a folder in a bucket by an empty object of its name, which is listed as lying in it.
    return child == root or (child.name == root.name and is_remote(child) and not child.exists())


def step_in(name: str) -> int | None:
    """Return the number that a name ends in; a fraction such as a loss, or a git commit, is none."""
    found = None if COMMIT.fullmatch(name) else STEP.fullmatch(name)
    return int(found[1]) if found else None


def is_temporary(name: str) -> bool:
    """Return whether a name is one that unfinished saves and downloads have."""
    return bool(TEMPORARY.fullmatch(name.lower()))


def pickled(name: str) -> str | None:
    """Return what files of such a name are, if that is pickles, or may be."""
    if name.lower().endswith(ARRAY):
        return f"one array or else {PICKLED}"
    return PICKLED if name.lower().endswith(PICKLES) else None


def by_step(candidates: Iterable[Child], fault: Callable[[Child], str | None]) -> tuple[Found, list[Skipped]]:
    """Sort what lies in a folder into checkpoints and other things.

    Args:
        candidates: in any order.
        fault: why one is no finished checkpoint, if it is none; asked in the order of steps.

    Returns:
        The checkpoints by step, and the rest with the reason.
    """
    found: Found = {}
    skipped: list[Skipped] = []
    for child in sorted(candidates, key=lambda child: (child.step or 0, child.name)):
        reason = _never(child) or fault(child)
        if reason or child.step is None:
            skipped.append(Skipped(child.name, reason or "there is no step number in its name"))
        else:
            found.setdefault(child.step, []).append(child)
    return found, skipped


def _never(child: Child) -> str | None:
    if is_temporary(child.name):
        return "it has the temporary name of a save that was never finished"
    if (what := pickled(child.name)) and not child.place.is_dir():
        return f"it is {what}"
    return None


def one_a_step(
    found: Found, read: Callable[["epath.Path"], Mapping[Path, np.ndarray]]
) -> "tuple[dict[int, epath.Path], list[Skipped]]":
    """Return the place of each step; where there are several of equal content, the first, and the others as skipped.

    Raises:
        ValueError: two that can be read differ.
    """
    places: dict[int, epath.Path] = {}
    repeated: list[Skipped] = []
    for step, copies in found.items():
        contents = _contents(copies, read) if len(copies) > 1 else {}
        if len(set(contents.values())) > 1:
            raise ValueError(
                f"got step {step} more than once, with different parameters, in {', '.join(c.name for c in copies)}; "
                "expected one checkpoint a step: move the others to another folder."
            )
        kept = next(iter(contents), copies[0])
        places[step] = kept.place
        repeated += [Skipped(c.name, f"it is step {step} again, as {kept.name}") for c in copies if c != kept]
    return places, repeated


def _contents(copies: list[Child], read: Callable[["epath.Path"], Mapping[Path, np.ndarray]]) -> dict[Child, str]:
    contents = {}
    for child in copies:
        try:
            contents[child] = digest(nest(read(child.place)))
        except Exception:  # damage is reported when the checkpoint is loaded
            continue
    return contents


def nothing(root: "epath.Path", skipped: list[Skipped], expected: str) -> ValueError:
    """Return the error of a folder without a finished checkpoint: what is there, and what was expected."""
    there = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:LISTED]) or "nothing that could be one"
    more = f"; and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
    message = f"got {root}, which holds no finished checkpoint ({there}{more}); expected {expected}."
    if any(PICKLED in s.reason for s in skipped):
        message += (
            " Convert pickles to safetensors, where you trust who wrote them: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), ...)."
        )
    return ValueError(message)
