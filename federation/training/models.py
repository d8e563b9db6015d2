"""Models as named arrays, and what they predict, with numpy alone: the gateway and the scorer need no torch.

Files are safetensors: no code in them, and equal weights give equal bytes.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from federation.core.errors import DataError, Reason, TrainingError
from federation.training.features import Floats

Weights = dict[str, Floats]
LOGISTIC_REGRESSION, LINEAR_DISCRIMINANT, PERCEPTRON = "logistic_regression", "linear_discriminant", "perceptron"
KINDS = (LOGISTIC_REGRESSION, LINEAR_DISCRIMINANT, PERCEPTRON)
LINEAR = frozenset({LOGISTIC_REGRESSION, LINEAR_DISCRIMINANT})
"""Kinds whose log odds are a weighted sum of the encoded columns: "weight" and "bias"."""
STEPPED = frozenset({LOGISTIC_REGRESSION, PERCEPTRON})
"""Kinds that a partner can train by gradient steps on its own rows, under local noise."""
HIDDEN = 32
"""Units in the one hidden layer of a perceptron."""
CHUNK = 65_536
"""Rows that are scored at a time."""
MAX_MODEL_BYTES = 4 << 20
"""Far above any model of banded features; bounds what a peer can make us read."""


def shapes(kind: str, width: int) -> dict[str, tuple[int, ...]]:
    """Shape of each array of a model kind for ``width`` encoded columns. Raises DataError (BAD_FIELD)."""
    if kind in LINEAR:
        return {"weight": (1, width), "bias": (1,)}
    if kind == PERCEPTRON:
        hidden = {"hidden.weight": (HIDDEN, width), "hidden.bias": (HIDDEN,)}
        return {**hidden, "output.weight": (1, HIDDEN), "output.bias": (1,)}
    raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r}")


def initial(kind: str, width: int) -> Weights:
    """A model that knows nothing, always the same: zeros, and for hidden units public pseudo-random numbers.

    Raises:
        DataError: BAD_FIELD.
    """
    made = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes(kind, width).items()}
    if kind == PERCEPTRON:
        rng = np.random.default_rng(HIDDEN)  # units that start alike would stay alike
        for name in ("hidden.weight", "output.weight"):
            made[name] = rng.normal(size=made[name].shape).astype(np.float32)
        made["output.weight"] /= np.float32(np.sqrt(HIDDEN))
    return made


def predict(kind: str, weights: Mapping[str, Floats], x: Floats) -> npt.NDArray[np.float64]:
    """Probability of the label for each encoded row: float64 (n,) in [0, 1].

    Raises:
        DataError: BAD_FIELD where kind, weights and rows do not fit together.
    """
    expected = shapes(kind, x.shape[1])
    if {name: array.shape for name, array in weights.items()} != expected:
        raise DataError(Reason.BAD_FIELD, item="shapes of the model")
    if kind in LINEAR:
        logits = x.astype(np.float64) @ weights["weight"][0].astype(np.float64) + float(weights["bias"][0])
    else:
        hidden = np.tanh(x @ weights["hidden.weight"].T + weights["hidden.bias"]).astype(np.float64)
        logits = hidden @ weights["output.weight"][0].astype(np.float64) + float(weights["output.bias"][0])
    # tanh does not overflow where exp would
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), dtype=np.float64)


def score_rows(kind: str, weights: Mapping[str, Floats], x: Floats) -> npt.NDArray[np.float64]:
    """Scores that depend on each row alone, to the last bit: float64 (n,).

    A matrix product may round one row by how many others there are, and a score at the edge of a bin would then move
    when somebody else leaves.
    """
    if kind in LINEAR:
        weight, bias = weights["weight"][0].astype(np.float64), float(weights["bias"][0])
        logits = [(x[s : s + CHUNK].astype(np.float64) * weight).sum(axis=1) + bias for s in range(0, len(x), CHUNK)]
        return np.asarray(0.5 * (1 + np.tanh(np.concatenate(logits or [np.zeros(0)]) / 2)), dtype=np.float64)
    return np.array([predict(kind, weights, x[place : place + 1])[0] for place in range(len(x))], dtype=np.float64)


def check_weights(arrays: Mapping[str, npt.NDArray[np.generic]], kind: str, width: int, *, item: str) -> Weights:
    """The arrays as weights of a model kind.

    Args:
        arrays: From a peer or a file.
        kind: Model kind.
        width: Encoded columns.
        item: Whom the error names.

    Raises:
        TrainingError: BAD_UPDATE for wrong names, shapes, types or values that are not finite.
    """
    wrong = {name: array.shape for name, array in arrays.items()} != shapes(kind, width)
    if wrong or any(array.dtype != np.float32 for array in arrays.values()):
        raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: shapes")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: value not finite")
    return {name: np.array(array, dtype=np.float32) for name, array in arrays.items()}


def norm(weights: Mapping[str, Floats]) -> float:
    """L2 norm over all arrays."""
    return float(np.sqrt(sum(float(np.square(array.astype(np.float64)).sum()) for array in weights.values())))


def save_weights(weights: Weights) -> bytes:
    """The weights as a safetensors file."""
    return bytes(_save({name: np.ascontiguousarray(array) for name, array in sorted(weights.items())}))


def load_weights(data: bytes, kind: str, width: int) -> Weights:
    """Reads a safetensors file. Raises TrainingError (BAD_UPDATE), DataError (TOO_LARGE)."""
    if len(data) > MAX_MODEL_BYTES:
        raise DataError(Reason.TOO_LARGE, item="model file")
    try:
        arrays = _load(data)
    except SafetensorError as exc:
        raise TrainingError(Reason.BAD_UPDATE, item="model file", detail=str(exc)) from exc
    return check_weights(arrays, kind, width, item="model file")


def weights_digest(data: bytes) -> str:
    """SHA-256 of a model file, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
