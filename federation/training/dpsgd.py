"""Per-customer DP-SGD of one round at one partner, with Opacus for gradients per row and clipping.

Guarantees, for ``settings.steps`` steps: each customer is in a step with its own independent chance (Poisson sampling
from a CSPRNG, drawn here because Opacus' data loader is slower and seeded); each row's gradient is clipped; Gaussian
noise is added in every step, an empty one too. That is the event the accountant was charged with. One row per customer
is the caller's duty.

Noise: torch's generators are Mersenne twisters, whose future can be computed from their past, so Opacus' own noise is
not used. Ours is Box-Muller in float64 on 53-bit uniforms from the given source of bytes (``os.urandom``), four draws
added and halved, which Opacus' secure mode does too: a single floating-point Gaussian has gaps that betray the value
under it. That makes the attack infeasible; it is not a proof of exactness, which only a discrete mechanism has.

Source: Abadi et al. 2016, arXiv:1607.00133; Mironov 2012 (the attack); Holohan and Braghin 2021, arXiv:2107.10138,
section 5.1 (the sum of draws).
"""

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer

from federation.training.features import Floats
from federation.training.models import Weights
from federation.training.networks import build_network
from federation.training.plan import Settings

# Opacus hooks the outputs of layers; that the inputs (rows) need no gradient is as it should be.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

RandomBytes = Callable[[int], bytes]
DRAWS = 4


def standard_gaussians(count: int, random_bytes: RandomBytes) -> npt.NDArray[np.float64]:
    """Independent standard normal draws: float64 (count,). See the module's docstring for how and why."""
    raw = np.frombuffer(random_bytes(2 * DRAWS * count * 8), dtype="<u8").reshape(2, DRAWS, count)
    # The half keeps the logarithm's argument above zero; the largest draw is 8.6 standard deviations.
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])
    return np.asarray(normal.sum(axis=0) / np.sqrt(DRAWS), dtype=np.float64)


def poisson_sample(rows: int, rate: float, random_bytes: RandomBytes) -> npt.NDArray[np.int64]:
    """Indices of the rows of one step; each row is in it with chance ``rate``, whatever the others do."""
    raw = np.frombuffer(random_bytes(rows * 8), dtype="<u8")
    # 53 bits against a float in [0, 1]: exact, and rate 1 takes every row.
    return np.flatnonzero((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 < rate)


class SecureOptimizer(DPOptimizer):  # type: ignore[misc]
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
        """Sets each parameter's gradient to the clipped sum plus noise, added in float64."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            clipped = parameter.summed_grad.detach().to(torch.float64)
            noise = torch.from_numpy(standard_gaussians(clipped.numel(), self._random_bytes)).reshape(clipped.shape)
            parameter.grad = (clipped + scale * noise).to(parameter.dtype).view_as(parameter)


def train_round(
    kind: str,
    weights: Weights,
    rows: tuple[Floats, Floats],
    *,
    settings: Settings,
    size: float,
    random_bytes: RandomBytes,
) -> Weights:
    """Takes the steps of one round and returns how the weights moved.

    Args:
        kind: Model kind.
        weights: Where the round begins.
        rows: Encoded rows, float32 (n, d), one per customer, and labels, float32 (n,), 0 or 1.
        settings: What was charged for.
        size: The noisy number of rows, above 0.
        random_bytes: A cryptographic source.
    """
    x, y = rows
    network = build_network(kind, weights)
    module = GradSampleModule(network, loss_reduction="sum")
    optimizer = SecureOptimizer(
        torch.optim.SGD(module.parameters(), lr=settings.learning_rate),
        settings,
        settings.sampling_rate * size,
        random_bytes,
    )
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum")
    for _ in range(settings.steps):
        chosen = poisson_sample(len(x), settings.sampling_rate, random_bytes)
        optimizer.zero_grad(set_to_none=True)
        if len(chosen):
            logits = module(torch.from_numpy(x[chosen]))[:, 0]
            loss_of(logits, torch.from_numpy(y[chosen])).backward()
        else:
            for parameter in module.parameters():
                parameter.grad_sample = torch.zeros((0, *parameter.shape))
        optimizer.step()
    module.remove_hooks()
    moved = {name: value.detach().numpy() for name, value in network.named_parameters()}
    return {name: moved[name] - weights[name] for name in weights}
