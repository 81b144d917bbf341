"""Where scalars go, by duck type: CLU and its like, Weights & Biases, TensorBoard."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Scalars: TypeAlias = dict[str, float]
Write: TypeAlias = Callable[[int, int, Mapping[str, float]], None]
"""(step that was measured, step of the training now, name -> number)."""


def writing(writer: Any, prefix: str) -> Write:
    """How to write to what a user has.

    Args:
        writer: None; or something with `write_scalars(step, dict)`, as CLU's metric writers, `log(dict, step=)`, as
            `wandb` and its runs, or `add_scalar(name, number, step)`, as TensorBoard's `SummaryWriter`; or a list.
        prefix: goes before every name.

    Raises:
        TypeError: it has none of these.
    """
    given = writer if isinstance(writer, list | tuple) else [writer]
    writes = [_writing_one(each, prefix) for each in given if each is not None]

    def write(step: int, now: int, scalars: Mapping[str, float]) -> None:
        named = {prefix + name: value for name, value in scalars.items()}
        for each in writes:
            each(step, now, named)

    return write


def _writing_one(writer: Any, prefix: str) -> Write:
    if hasattr(writer, "write_scalars"):
        return lambda step, now, scalars: writer.write_scalars(step, scalars)
    if hasattr(writer, "add_scalar"):
        return lambda step, now, scalars: _add_scalars(writer, step, scalars)
    if hasattr(writer, "log"):
        return _logging(writer, prefix)
    raise TypeError(
        f"writer: got {type(writer).__name__}, expected something with write_scalars(step, dict), log(dict, step=) or "
        "add_scalar(name, number, step)"
    )


def _add_scalars(writer: Any, step: int, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)


def _logging(writer: Any, prefix: str) -> Write:
    """Weights & Biases drops what comes for a step behind its own, as all does that is measured beside the training.

    So a row goes to the step that the training is at, and says itself which step it is of; charts are drawn over that.
    """
    of = f"{prefix}step"
    if prefix and hasattr(writer, "define_metric"):
        writer.define_metric(f"{prefix}*", step_metric=of)
    return lambda step, now, scalars: writer.log({**scalars, of: step}, step=now)
