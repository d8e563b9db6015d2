"""Training without noise: models can be compared bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from federation.client.training import workbench
from federation.policy.specs import TrainingSpec
from federation.training import dpsgd
from federation.training.features import Floats
from federation.training.joint_noise import JointNoise
from federation.training.models import Weights, predict
from gateway.training.runs import FINISHED
from tests.kits.kill import World

_weights: dict[str, bytes] = {}


def _exact_round(kind: str, weights: Weights, rows: tuple[Floats, Floats], *, size: float, **_: Any) -> Weights:
    """In place of a round of DP-SGD: a fixed step along the exact gradient."""
    x, y = rows
    missed = y - predict(kind, weights, x)
    found = {"weight": (missed @ x)[None, :] / size, "bias": np.array([missed.sum() / size])}
    return {name: array.astype(np.float32) for name, array in found.items()}


@contextmanager
def without_noise() -> Iterator[None]:
    """Sums and updates are exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JointNoise, "draw_share", lambda self: np.zeros(self.width, dtype=np.int64))
        patch.setattr(dpsgd, "train_round", _exact_round)
        patch.setattr(workbench, "standard_gaussians", lambda count, _: np.zeros(count))
        yield


def undisturbed(spec: TrainingSpec) -> bytes:
    """The model of a run in which nothing happens; played once."""
    name = spec.model_dump_json()
    if name not in _weights:
        with TemporaryDirectory() as folder:
            world = World(Path(folder), spec, {})
            assert world.play().state == FINISHED
            _weights[name] = world.runs.model().weights
    return _weights[name]
