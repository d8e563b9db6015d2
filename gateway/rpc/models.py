"""ModelService on the wire: thin."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc

from federation.core.errors import Reason, TrainingError
from federation.training.measures import Difference, Interval
from federation.v1 import models_pb2 as pb
from federation.v1.models_pb2_grpc import ModelServiceServicer
from gateway.identity.caller import current_caller
from gateway.identity.roles import READS_LOG
from gateway.training.evaluation import Comparison
from gateway.training.press import Press
from gateway.training.runs import Finished, RunStore
from gateway.training.versions import Step, Versions

Context = grpc.aio.ServicerContext[Any, Any]


class ModelServicer(ModelServiceServicer):
    """Serves versions of models.

    Args:
        versions: Decides which is in use.
        runs: Has the models.
        press: Compares them.
    """

    def __init__(self, versions: Versions, runs: RunStore, press: Press) -> None:
        self._versions, self._runs, self._press = versions, runs, press

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Every version and decision."""
        models, steps = await asyncio.to_thread(self._versions.list)
        in_use = steps[-1].version if steps else 0
        reads_log = current_caller().role in READS_LOG
        shown = [_step(step, reads_log=reads_log) for step in steps]
        return pb.ListModelsResponse(models=[_info(model, in_use) for model in models], steps=shown)

    async def UseModel(self, request: pb.UseModelRequest, context: Context) -> pb.UseModelResponse:
        """Puts a version in use."""
        model = await asyncio.to_thread(self._versions.use, current_caller(), request.version, request.reason)
        return pb.UseModelResponse(model=_info(model, model.version))

    async def RollBackModel(self, request: pb.RollBackModelRequest, context: Context) -> pb.RollBackModelResponse:
        """Back to the version before."""
        back: Callable[..., Finished] = self._versions.roll_back
        model = await asyncio.to_thread(back, current_caller(), request.from_version, request.reason)
        return pb.RollBackModelResponse(model=_info(model, model.version))

    async def CompareModels(self, request: pb.CompareModelsRequest, context: Context) -> pb.CompareModelsResponse:
        """Two versions on the public set."""
        return await asyncio.to_thread(self._compare, request.first, request.second)

    def _compare(self, first: int, second: int) -> pb.CompareModelsResponse:
        """Raises TrainingError (UNKNOWN_RUN), and see ``Press.compare``."""
        if not first or not second:
            raise TrainingError(Reason.UNKNOWN_RUN, item="version 0")
        one, other = (self._runs.model("", version) for version in (first, second))
        return _comparison(self._press.compare(one, other))


def _info(model: Finished, in_use: int) -> pb.ModelInfo:
    card = json.loads(model.card_json)
    return pb.ModelInfo(
        version=model.version,
        run_id=model.run_id,
        finished_at=model.finished_at,
        in_use=model.version == in_use,
        model=card["model"],
        weights_sha256=card["weights_sha256"],
        epsilon_per_person=card["epsilon_per_person"],
        auc=card["metrics"]["auc"] if card["metrics"] else None,
    )


def _step(step: Step, *, reads_log: bool) -> pb.ModelStep:
    return pb.ModelStep(
        kind=step.kind,
        version=step.version,
        party=step.party,
        reason=step.reason,
        at=step.at,
        audit_index=step.audit_index if reads_log else None,
    )


def _comparison(found: Comparison) -> pb.CompareModelsResponse:
    difference: Difference = found.difference
    return pb.CompareModelsResponse(
        rows=found.rows,
        positives=found.positives,
        first=_estimate(difference.first),
        second=_estimate(difference.second),
        difference=_estimate(difference.difference),
        p_value=difference.p_value,
    )


def _estimate(found: Interval) -> pb.Estimate:
    return pb.Estimate(value=found.value, low=found.low, high=found.high)
