"""The models that a partner has on its shelf: fetched once, verified before use, and which one is in use.

The gateway says which version is in use; the partner believes a model only if its card carries the signature of a
gateway of its alliance and the weights are those of the card. A version that does not verify is not put on the shelf,
and nothing is scored with it. What is on the shelf is verified again whenever it is read.
"""

import json
import shutil
import threading
from pathlib import Path

import structlog

from federation.core.errors import EntenteError, Reason, TrainingError
from federation.core.files import write_secret
from federation.core.identity import Identity
from federation.training.saved import SavedModel, load_model, verify_model
from federation.training.signed_card import save_model
from federation.v1 import models_pb2, training_pb2
from federation.v1.models_pb2_grpc import ModelServiceStub
from federation.v1.training_pb2_grpc import TrainingServiceStub

LOOK_EVERY_S = 30.0
CALL_S = 30.0
FOLDER, IN_USE_FILE = "models", "in-use.json"
_log = structlog.get_logger()


class ModelShelf:
    """Safe to share between threads and processes: a folder is put in place whole.

    Args:
        training: The gateway's training service, which hands out models.
        models: The gateway's model service, which says which is in use.
        identity: Whose alliance and CA count.
        state: The partner's state folder.
    """

    def __init__(
        self, training: TrainingServiceStub, models: ModelServiceStub, identity: Identity, state: Path
    ) -> None:
        self._training, self._models, self._identity = training, models, identity
        self._folder = state / FOLDER

    def in_use(self) -> SavedModel:
        """The model in use now, fetched if it is not on the shelf.

        Raises:
            TrainingError: UNKNOWN_RUN where no run has finished.
            IdentityError: the card's signature does not verify.
            DataError: the files do not.
            grpc.RpcError: the gateway cannot be reached.
        """
        listed = self._models.ListModels(models_pb2.ListModelsRequest(), timeout=CALL_S)
        chosen = next((model for model in listed.models if model.in_use), None)
        if chosen is None:
            raise TrainingError(Reason.UNKNOWN_RUN, item="no run has finished")
        model = self._on_shelf(chosen) or self._fetch(training_pb2.GetModelRequest(version=chosen.version))
        if model.digest != chosen.weights_sha256:
            raise TrainingError(Reason.BAD_UPDATE, item=f"version {chosen.version}: other weights than listed")
        said = json.dumps({"version": chosen.version, "run_id": model.run_id, "weights_sha256": model.digest})
        path = self._folder / IN_USE_FILE
        if not path.exists() or path.read_text() != said:
            write_secret(path, said.encode())
        return model

    def of_run(self, run_id: str) -> SavedModel:
        """The model of a run, verified. Raises as ``in_use``."""
        return self._fetch(training_pb2.GetModelRequest(run_id=run_id))

    def of_version(self, version: int) -> SavedModel:
        """A version, verified. Raises as ``in_use``."""
        return self._fetch(training_pb2.GetModelRequest(version=version))

    def serve(self, stop: threading.Event) -> None:
        """Keeps the version in use on the shelf until told to stop; a part of the agent."""
        known = ""
        while not stop.is_set():
            try:
                model = self.in_use()
                if model.digest != known:
                    _log.info("model_in_use", run=model.run_id, weights=model.digest[:12])
                    known = model.digest
            except EntenteError as exc:
                if exc.reason is not Reason.UNKNOWN_RUN:
                    _log.warning("model_not_usable", reason=str(exc.reason), item=exc.item)
            stop.wait(LOOK_EVERY_S)

    def _on_shelf(self, chosen: models_pb2.ModelInfo) -> SavedModel | None:
        """The model if it is on the shelf and verifies."""
        folder = self._folder / chosen.weights_sha256
        if not folder.is_dir():
            return None
        try:
            model = load_model(folder, self._identity.ca)
        except EntenteError as exc:
            _log.warning("model_on_shelf_broken", reason=str(exc.reason), item=exc.item)
            return None
        # Two runs may end in the same weights; then the card tells them apart.
        return model if model.run_id == chosen.run_id else None

    def _fetch(self, request: training_pb2.GetModelRequest) -> SavedModel:
        """A model from the gateway, verified and put on the shelf."""
        answer = self._training.GetModel(request, timeout=CALL_S)
        model = verify_model(answer.weights, answer.signed_card, self._identity.ca)
        if model.signer.alliance != self._identity.subject.alliance or model.run_id != answer.run_id:
            raise TrainingError(Reason.BAD_UPDATE, item="gateway: card of another run or alliance")
        folder = self._folder / model.digest
        scratch = self._folder / f".{model.digest}.{threading.get_ident()}"
        save_model(model, scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.replace(folder)
        return model
