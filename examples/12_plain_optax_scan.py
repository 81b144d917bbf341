"""λ̂ of four seeds inside one compiled training: plain optax, scan over steps, vmap over seeds.

    uv run python examples/12_plain_optax_scan.py

`llc_fn` is a pure function (key, params) -> Estimate, so that it goes wherever the training step goes. What it cannot
do there is to speak: `judge` puts the numbers into words afterwards.
"""

import jax
import jax.numpy as jnp
import optax

import sltjax

NUM_SEEDS = 4
STEPS_BETWEEN, NUM_LOOKS = 50, 6

optimizer = optax.adam(1e-2)


def apply(params, x):
    return jnp.tanh(x @ params["inner"]) @ params["outer"]


def initial(key):
    one, two = jax.random.split(key)
    return {"inner": jax.random.normal(one, (2, 12)), "outer": 0.3 * jax.random.normal(two, (12, 1))}


def training_loss(params, data):
    return jnp.mean((apply(params, data["x"]) - data["y"]) ** 2)


def main():
    x = jax.random.normal(jax.random.key(0), (1000, 2))
    data = {"x": x, "y": jnp.sin(2 * x[:, :1]) * x[:, 1:]}

    # In the middle of training the training loss has no minimum, the behavioural loss has.
    loss = sltjax.behavioral_loss(lambda params, batch: apply(params, batch["x"]))
    lengths = {"num_chains": 4, "num_draws": 300, "burn_in": 400, "thin": 4, "batch_size": 1000}
    llc = sltjax.llc_fn(loss, data, {"sampler": sltjax.GHMC(0.05), **lengths})

    @jax.jit
    @jax.vmap
    def train(key):
        start_key, key = jax.random.split(key)
        params = initial(start_key)

        def update(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(training_loss)(params, data), state)
            return (optax.apply_updates(params, updates), state), None

        def look(carry, key):
            carry, _ = jax.lax.scan(update, carry, length=STEPS_BETWEEN)
            return carry, (training_loss(carry[0], data), llc(key, carry[0]))

        return jax.lax.scan(look, (params, optimizer.init(params)), jax.random.split(key, NUM_LOOKS))[1]

    losses, estimates = train(jax.random.split(jax.random.key(1), NUM_SEEDS))  # leaves [seed, look, ...]
    print("step   " + "loss, λ̂ ± error of each seed; * where it carries a warning")
    judged = sltjax.judge(estimates)
    for index in range(NUM_LOOKS):
        row = [
            f"{losses[seed, index]:.3f} {one.value:5.1f} ± {one.std_error:.1f}{' ' if one.health.ok else '*'}"
            for seed, one in enumerate(found[index] for found in judged)
        ]
        print(f"{STEPS_BETWEEN * (index + 1):4d}   " + "  ".join(row))
    print("for instance:", *judged[0][0].health.messages)


if __name__ == "__main__":
    main()
