"""A model that may be used: its card verified (``federation.training.signed_card``), and its weights read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography import x509

from federation.core.errors import DataError, Reason
from federation.training.features import FeatureSchema, Table, find_schema
from federation.training.models import Weights, load_weights, predict
from federation.training.signed_card import SignedModel, read_folder, verify_card
from federation.v1.common_pb2 import Signed


@dataclass(frozen=True)
class SavedModel(SignedModel):
    """A model whose card verified, ready to score with."""

    kind: str
    schema: FeatureSchema
    features: tuple[str, ...]
    weights: Weights

    def score(self, table: Table) -> npt.NDArray[np.float64]:
        """Probability of the label, float64 (n,) in [0, 1], for each row. Raises DataError (MISSING_COLUMN)."""
        return predict(self.kind, self.weights, self.schema.encode(table, self.features))


def verify_model(data: bytes, signed: Signed, ca: x509.Certificate) -> SavedModel:
    """Checks card and weights with nothing but the alliance's CA certificate, and reads the weights.

    Args:
        data: The weights' file.
        signed: The card.
        ca: Of the alliance.

    Raises:
        DataError: see ``verify_card``; BAD_FIELD for a card that says nothing of how to use the model.
        IdentityError: see ``verify_card``.
        TrainingError: BAD_UPDATE for weights that are no model of that kind.
    """
    return _use(verify_card(data, signed, ca))


def load_model(folder: Path, ca: x509.Certificate) -> SavedModel:
    """Reads and checks the files of a folder. Raises as ``verify_model``, and DataError (MISSING_FILE)."""
    return _use(read_folder(folder, ca))


def _use(model: SignedModel) -> SavedModel:
    card = model.card
    try:
        kind, version, features = str(card["model"]), str(card["feature_schema"]), tuple(map(str, card["features"]))
    except (KeyError, TypeError) as exc:
        raise DataError(Reason.BAD_FIELD, item="model card", detail=type(exc).__name__) from exc
    schema = find_schema(version)
    weights = load_weights(model.data, kind, schema.width(features))
    return SavedModel(card, model.signer, model.data, model.signed, kind, schema, features, weights)
