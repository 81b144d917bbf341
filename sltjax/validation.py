"""The boundary: what sampling could only turn into a wrong number is refused here, once, with a remedy."""

import jax
import jax.numpy as jnp
import numpy as np

from sltjax.posterior import LocalPosterior
from sltjax.schedule import Schedule
from sltjax.types import Batch, Params, Sampler

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)
KEPT, LOST = ("persistence", "momentum", "decay"), ("friction", "acceptance")  # hyperparameters that are shares


def validate(posterior: LocalPosterior, sampler: Sampler | None, data: Batch, schedule: Schedule) -> None:
    """Refuse, with a reason and a remedy, what sampling could only turn into a wrong number.

    Raises:
        ValueError: a size or value is out of range, the weights are not finite, the data empty or ragged,
            or the loss is not one number an example.
        TypeError: a parameter is not floating point.
    """
    validate_numbers(posterior.nbeta, posterior.gamma, sampler, data, schedule)
    as_float32(posterior.anchor)
    validate_select(posterior)
    validate_loss(posterior, data)


def validate_numbers(nbeta: float, gamma: float, sampler: Sampler | None, data: Batch, schedule: Schedule) -> None:
    """Refuse what needs no look at parameters and loss.

    Raises:
        ValueError: a size or value is out of range, or the data empty or ragged.
    """
    num_examples = count_examples(data)
    _validate_schedule(schedule, num_examples)
    if not (np.isfinite(nbeta) and nbeta > 0):
        raise ValueError(f"nbeta must be positive and finite, got {nbeta}; n / log n is the default")
    if not (np.isfinite(gamma) and gamma >= 0):
        raise ValueError(f"gamma must be finite and not negative, got {gamma}; 1 is the default")
    for path, value in jax.tree.leaves_with_path(sampler):
        _validate_hyperparameter(jax.tree_util.keystr(path), np.asarray(value))
    if sampler is not None and sampler.needs_full_data and schedule.batch_size != num_examples:
        raise ValueError(
            f"{type(sampler).__name__} accepts or rejects by U over the full data: set batch_size to {num_examples},"
            f" got {schedule.batch_size}; or use a sampler for batches, such as SGLD"
        )


def _validate_hyperparameter(name: str, value: np.ndarray) -> None:
    if name.endswith(KEPT):
        fits, expected = (value >= 0) & (value < 1), "at least 0 and under 1"
    elif name.endswith(LOST):
        fits, expected = (value > 0) & (value <= 1), "above 0 and at most 1"
    else:
        fits, expected = (value > 0) & np.isfinite(value), "positive and finite"
    if not fits.all():
        raise ValueError(f"the sampler's {name} must be {expected}, got {value}")


def count_examples(data: Batch) -> int:
    """The number n of examples: the leading axis that all leaves of the data share.

    Raises:
        ValueError: no arrays, no examples, or leaves of different lengths.
    """
    shapes = {jax.tree_util.keystr(path): np.shape(x) for path, x in jax.tree.leaves_with_path(data)}
    lengths = {shape[0] for shape in shapes.values() if shape}
    if len(lengths) != 1 or () in shapes.values():
        raise ValueError(f"data must be arrays that share their first axis, one entry an example; got shapes {shapes}")
    (num_examples,) = lengths
    if num_examples == 0:
        raise ValueError(f"data holds no examples: got shapes {shapes}, expected at least one")
    return num_examples


def _validate_schedule(schedule: Schedule, num_examples: int) -> None:
    for name, least, why in [
        ("num_chains", 2, "R-hat compares chains"),
        ("num_draws", 4, "R-hat compares the halves of a chain"),
        ("burn_in", 0, "it is a number of steps"),
        ("thin", 1, "it is the number of steps a draw"),
        ("batch_size", 1, "it is a number of examples"),
    ]:
        if (got := getattr(schedule, name)) < least:
            raise ValueError(f"{name} must be at least {least} ({why}), got {got}")
    if schedule.burn_in > schedule.num_draws * schedule.thin:
        raise ValueError(
            f"burn_in = {schedule.burn_in} steps would outlast the num_draws · thin = {schedule.num_draws} ·"
            f" {schedule.thin} steps of drawing; lower burn_in or raise num_draws"
        )
    if schedule.batch_size > num_examples:
        raise ValueError(
            f"batch_size = {schedule.batch_size} exceeds the {num_examples} examples in the data;"
            f" set batch_size to {num_examples} or less"
        )


def as_float32(params: Params) -> Params:
    """The parameters as numpy arrays of float32, in which chains run whatever the model was saved in.

    Raises:
        TypeError: a leaf is not floating point; names it.
        ValueError: a leaf is not finite, or there is none; names it.
    """
    leaves = jax.tree.leaves_with_path(params)
    if not leaves:
        raise ValueError("the parameters hold no arrays; expected a pytree with at least one")
    for path, leaf in leaves:
        name = f"parameter {jax.tree_util.keystr(path)}" if path else "the array of parameters"
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name} is {jnp.result_type(leaf)}, expected floating point; leave out what is not trained"
            )
        if bad := int(np.sum(~np.isfinite(np.asarray(leaf, np.float32)))):
            raise ValueError(f"{name} holds {bad} values that are not finite; use an earlier checkpoint")
    return jax.tree.map(lambda w: np.asarray(w, np.float32), params)


def validate_select(posterior: LocalPosterior) -> None:
    """Refuse to move a part of the weights that is none.

    Raises:
        ValueError: `select` gives no arrays, changes entries or takes one twice.
    """
    if posterior.select is None:
        return
    anchor = jax.tree.map(jnp.asarray, posterior.anchor)
    selected, write_back = jax.vjp(posterior.select, anchor)
    if not jax.tree.leaves(selected):
        raise ValueError(
            "select(params) holds no arrays; expected a part of the parameters, such as {'a': params['a']}"
        )
    (taken,) = write_back(jax.tree.map(jnp.ones_like, selected))
    if not all(np.isin(times, (0, 1)).all() for times in jax.tree.leaves(taken)):
        raise ValueError(
            "select(params) must take entries of the parameters as they are and each at most once; it scales some of "
            "them, or takes one twice"
        )


def validate_loss(posterior: LocalPosterior, data: Batch) -> None:
    """Refuse a loss that does not give one finite number an example, always the same.

    Raises:
        ValueError: another shape, of which a scalar is the usual one; NaN or infinity at the checkpoint; or other
            numbers at the second call.
        TypeError: jax cannot trace it.
    """
    batch = _few(data)
    validate_loss_shape(posterior, data)
    anchor = jax.tree.map(jnp.asarray, posterior.anchor)
    at_anchor, again = (np.asarray(posterior.losses_at(anchor, batch)) for _ in range(2))
    if not np.isfinite(at_anchor).all():
        raise ValueError(f"the loss at the checkpoint is {at_anchor} on the first examples, expected finite numbers")
    if not np.array_equal(at_anchor, again):
        raise ValueError(
            f"the loss is no pure function: it gave {at_anchor}, then {again} for the same parameters and examples; "
            "switch dropout off, and draw no random numbers in it"
        )


def validate_loss_shape(posterior: LocalPosterior, data: Batch) -> None:
    """Refuse a loss that does not give one number an example; within a traced function as well.

    Raises:
        ValueError: another shape, of which a scalar is the usual one.
        TypeError: jax cannot trace it.
    """
    batch = _few(data)
    size = count_examples(batch)
    try:
        shape = jax.eval_shape(posterior.losses_at, posterior.anchor, batch).shape
    except UNTRACEABLE as error:
        raise TypeError(
            f"the loss is no pure function of jax arrays: {str(error).splitlines()[0]} It must compute with jax.numpy, "
            "decide by jnp.where and not by if, and call no .item() or numpy"
        ) from error
    if shape != (size,):
        hint = "do not average over the batch" if shape == () else "sum over every axis but the first"
        raise ValueError(
            f"loss(params, batch) must return one loss an example, shape [{size}] for {size} examples,"
            f" got {list(shape)}; {hint}"
        )


def _few(data: Batch) -> Batch:
    return jax.tree.map(lambda x: x[:2], data)
