"""The models as torch modules, for the partner's training only."""

import torch

from federation.core.errors import DataError, Reason
from federation.training.models import HIDDEN, LOGISTIC_REGRESSION, PERCEPTRON, Weights


def build_network(kind: str, weights: Weights) -> torch.nn.Module:
    """A module that gives logits of shape (n, 1), with a copy of the weights. Raises DataError (BAD_FIELD)."""
    network: torch.nn.Module
    if kind == LOGISTIC_REGRESSION:
        network = torch.nn.Linear(weights["weight"].shape[1], 1)
    elif kind == PERCEPTRON:
        network = torch.nn.Sequential()
        network.add_module("hidden", torch.nn.Linear(weights["hidden.weight"].shape[1], HIDDEN))
        network.add_module("tanh", torch.nn.Tanh())
        network.add_module("output", torch.nn.Linear(HIDDEN, 1))
    else:
        raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r}")
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return network
