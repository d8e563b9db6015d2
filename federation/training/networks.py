"""The models as torch modules, for the partner's training only."""

import torch

from federation.core.errors import DataError, Reason
from federation.training.models import LOGISTIC_REGRESSION, Weights


def build_network(kind: str, weights: Weights) -> torch.nn.Module:
    """A module that gives logits of shape (n, 1), with a copy of the weights. Raises DataError (BAD_FIELD)."""
    if kind != LOGISTIC_REGRESSION:
        raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r}")
    network = torch.nn.Linear(weights["weight"].shape[1], 1)
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return network
