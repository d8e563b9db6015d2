"""The rows that a partner's empirical audit of a model compares. They are read here and never leave."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from federation.client.files.tables import read_table
from federation.client.training.workbench import CATEGORY, RECIPIENT, Workbench
from federation.client.workplace import Workplace
from federation.core.errors import DataError, Reason
from federation.training.accountant import CustomerAccountant
from federation.training.features import read_labels
from federation.training.learner import Rows
from federation.training.memory import RunMemory
from federation.training.plan import PURPOSE, Plan


def trained_rows(place: Workplace, plan: Plan) -> Rows:
    """Rows of everyone who may be in a run of the plan now, as the agent would read them. Raises DataError."""
    bench = Workbench(
        plan,
        data=place.data,
        accountant=CustomerAccountant(place.engine, place.config.limits, place.clock),
        memory=RunMemory(place.engine),
        identity=place.identity,
        clock=place.clock,
        random_bytes=os.urandom,
        region_of=place.policy.region_of,
        region_column=place.config.data.columns.region,
    )
    return bench.rows()


def left_out_rows(place: Workplace, plan: Plan) -> Rows:
    """Rows of labelled customers whom the partner's policy does not let into training now.

    Raises:
        DataError: BAD_FIELD where there are none.
    """
    frame = place.data.customers()
    ids = place.data.eligible(PURPOSE, CATEGORY, RECIPIENT, fields=plan.fields).ids
    found = _encode(frame[~frame.index.isin(ids)], plan)
    if not len(found.y):
        fix = "Name a CSV of people who were not trained on with --held-out."
        raise DataError(Reason.BAD_FIELD, item="every customer may be in training", fix=fix)
    return found


def file_rows(path: Path, plan: Plan) -> Rows:
    """Labelled rows of a CSV file. Raises DataError."""
    return _encode(read_table(path, required=(*plan.features, plan.label), text=()), plan)


def deal(rows: Rows, parts: int, rng: np.random.Generator) -> list[Rows]:
    """The rows in no order, in so many parts of about the same size."""
    order = np.array_split(rng.permutation(len(rows.y)), parts)
    return [Rows(rows.x[own], rows.y[own], None if rows.groups is None else rows.groups[own]) for own in order]


def _encode(frame: pd.DataFrame, plan: Plan) -> Rows:
    y, labelled = read_labels(frame, plan.label)
    return Rows(plan.schema.encode(frame, plan.features)[labelled], y[labelled])
