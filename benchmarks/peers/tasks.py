"""The tasks of against_peers.py in PyTorch: the same weights and data, read from a file."""

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Mlp(nn.Module):
    def __init__(self, weights, biases, activation):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.tensor(w)) for w in weights])
        self.biases = nn.ParameterList([nn.Parameter(torch.tensor(b)) for b in biases])
        self.activation = activation

    def forward(self, x):
        for k, weight in enumerate(self.weights):
            x = x @ weight
            if len(self.biases):
                x = x + self.biases[k]
            if self.activation and k + 1 < len(self.weights):
                x = torch.tanh(x)
        return x


class Transformer(nn.Module):
    """Pre-norm blocks of causal attention and a GELU layer, no biases, learnt positions."""

    def __init__(self, arrays, heads):
        super().__init__()
        self.tensors = nn.ParameterDict({name: nn.Parameter(torch.tensor(w)) for name, w in arrays.items()})
        self.heads, self.layers = heads, sum(name.endswith("qkv") for name in arrays)

    def forward(self, tokens):
        w = self.tensors
        x = w["embed"][tokens] + w["position"][: tokens.shape[-1]]
        for k in range(self.layers):
            q, k_, v = (functional.layer_norm(x, x.shape[-1:]) @ w[f"{k}_qkv"]).chunk(3, dim=-1)
            q, k_, v = (each.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for each in (q, k_, v))
            mixed = functional.scaled_dot_product_attention(q, k_, v, is_causal=True)
            x = x + mixed.transpose(-2, -3).flatten(-2) @ w[f"{k}_out"]
            hidden = functional.layer_norm(x, x.shape[-1:]) @ w[f"{k}_up"]
            x = x + functional.gelu(hidden, approximate="tanh") @ w[f"{k}_down"]
        return functional.layer_norm(x, x.shape[-1:]) @ w["unembed"]


def squared(outputs, y):
    return ((outputs - y) ** 2).sum(dim=-1) / 2


def cross_entropy(outputs, y):
    return functional.cross_entropy(outputs, y, reduction="none")


def next_token(outputs, y):
    losses = functional.cross_entropy(outputs.flatten(0, -2), y.flatten(), reduction="none")
    return losses.unflatten(0, y.shape).mean(dim=-1)


LOSSES = {"squared": squared, "cross_entropy": cross_entropy, "next_token": next_token}


def read(path):
    """(model, x, y, losses(outputs, y) [batch], settings) of a task."""
    with np.load(path) as file:
        arrays = dict(file)
    settings = json.loads(str(arrays.pop("settings")))
    x, y = (torch.tensor(arrays.pop(name)) for name in ("x", "y"))
    y = y if y.is_floating_point() else y.long()
    if settings["kind"] == "transformer":
        model = Transformer(arrays, settings["heads"])
    else:
        layers = range(sum(name.startswith("weight") for name in arrays))
        biases = [arrays[f"bias{k}"] for k in layers if f"bias{k}" in arrays]
        model = Mlp([arrays[f"weight{k}"] for k in layers], biases, settings["kind"] == "mlp")
    return model, x, y, LOSSES[settings["loss"]], settings


def mean_loss(model, x, y, losses):
    with torch.no_grad():
        return float(torch.cat([losses(model(a), b) for a, b in zip(x.split(512), y.split(512), strict=True)]).mean())


def serve(run):
    """Answer requests on standard input, a line of JSON each: run(**request) -> λ̂ of each chain."""
    for line in sys.stdin:
        began = time.perf_counter()
        llcs = run(**json.loads(line))
        print(json.dumps({"seconds": time.perf_counter() - began, "llcs": llcs}), flush=True)
