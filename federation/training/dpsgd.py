"""Per-customer DP-SGD of one round at one partner, with Opacus' ghost clipping: no gradient per row is ever made.

Guarantees, for ``settings.steps`` steps: each customer is in a step with its own independent chance (Poisson sampling
from a CSPRNG, drawn here because Opacus' data loader is slower and seeded); each row's gradient is clipped; Gaussian
noise is added in every step, an empty one too. That is the event the accountant was charged with. One row per customer
is the caller's duty.

Clipping: a first pass backwards gives every row's gradient norm, a second the sum of the clipped gradients, with each
row's loss scaled by its clipping factor.

All of it is float64, though models are float32. A float32 sum of many rows is rounded by more than clipping leaves
room for, and one row more can move all its roundings. And whatever float32 weights the gateway sends, nothing
overflows: a score that is not a number would pass clipping and noise, and show which rows have it. What rounding is
left is far below ``CLIP_ROOM``, by which rows are clipped below the norm that noise is made for.

The noise is ``federation.training.draws``' own.

Source: Abadi et al. 2016, arXiv:1607.00133; Goodfellow 2015, arXiv:1510.01799, and Li et al. 2022, arXiv:2110.05679
(ghost clipping); Casacuberta, Shoemate, Vadhan, Wagaman 2022, arXiv:2207.10635 (sums in floating point).
"""

import warnings

import numpy as np
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping

from federation.training.draws import RandomBytes, poisson_sample, standard_gaussians
from federation.training.features import Floats
from federation.training.models import Weights
from federation.training.networks import build_network
from federation.training.plan import Settings

# Opacus hooks the outputs of layers; that the inputs (rows) need no gradient is as it should be.
warnings.filterwarnings("ignore", message="Full backward hook is firing")
CLIP_ROOM = 1 - 2.0**-12


class SecureOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus' optimizer with noise from a CSPRNG.

    Args:
        optimizer: Applies the noisy gradients.
        settings: Of the round.
        expected_batch_size: Rows that a step has on average; gradients are divided by it.
        random_bytes: A cryptographic source.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        expected_batch_size: float,
        random_bytes: RandomBytes,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clipping_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._random_bytes = random_bytes

    def add_noise(self) -> None:
        """Sets each parameter's gradient to the clipped sum plus noise."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            clipped = parameter.summed_grad.detach()
            noise = torch.from_numpy(standard_gaussians(clipped.numel(), self._random_bytes)).reshape(clipped.shape)
            parameter.grad = (clipped + scale * noise).view_as(parameter)


def train_round(
    kind: str,
    weights: Weights,
    rows: tuple[Floats, Floats],
    *,
    settings: Settings,
    size: float,
    random_bytes: RandomBytes,
) -> Weights:
    """Takes the steps of one round and returns how the weights moved, as float32.

    Args:
        kind: Model kind.
        weights: Where the round begins.
        rows: Encoded rows, float32 (n, d), one per customer, and labels, float32 (n,), 0 or 1.
        settings: What was charged for.
        size: The noisy number of rows, above 0.
        random_bytes: A cryptographic source.
    """
    torch.set_num_threads(1)  # small matrices: more threads only fight with the neighbours
    x, y = rows
    network = build_network(kind, weights).double()
    module = GradSampleModuleFastGradientClipping(
        network, loss_reduction="sum", max_grad_norm=settings.clipping_norm * CLIP_ROOM
    )
    optimizer = SecureOptimizer(
        torch.optim.SGD(module.parameters(), lr=settings.learning_rate),
        settings,
        settings.sampling_rate * size,
        random_bytes,
    )
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="none")
    for _ in range(settings.steps):
        chosen = poisson_sample(len(x), settings.sampling_rate, random_bytes)
        optimizer.zero_grad(set_to_none=True)
        if len(chosen):
            logits = module(torch.from_numpy(x[chosen]).double())[:, 0]
            losses = loss_of(logits, torch.from_numpy(y[chosen]).double())
            losses.sum().backward(retain_graph=True)
            optimizer.zero_grad(set_to_none=True)
            module.disable_hooks()
            (module.get_clipping_coef().detach() * losses).sum().backward()
            module.enable_hooks()
        else:
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    module.remove_hooks()
    moved = {name: value.detach().numpy() for name, value in network.named_parameters()}
    return {name: (moved[name] - weights[name]).astype(np.float32) for name in weights}
