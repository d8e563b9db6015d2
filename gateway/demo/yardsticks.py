"""What nobody in a real alliance could compute: models without privacy, to hold the joint model against.

The demonstration plays all parties, so it may open every partner's files at once. It fits one plain logistic regression
on all partners' rows pooled, and one on each partner's rows alone, without noise, clipping or masks. The pooled one is
about the best that this kind of model can do; a partner's own is what joining has to beat. In a real alliance the
pooled file would be unlawful and the partners' own numbers would stay with them.

Columns are encoded as the joint model's are. Only rows with a live ``model_training`` consent are used, as in the joint
training; a person who is a customer of two partners counts twice, as there. The judge is ``test.csv``: nobody's
customers.

The libraries are loaded where they are used: one step of the demonstration needs them, and each start would wait.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason
from federation.training.features import MARKETING_V1

if TYPE_CHECKING:
    import pandas as pd

FEATURES = tuple(feature.name for feature in MARKETING_V1.features)
PURPOSE, LABEL = "model_training", "accepted_offer"
ROC_POINTS = 101
DECILES = 10
INVERSE_REGULARISATION = 10.0  # of rows of norm 1: little; from 1 to 30 the results hardly move

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """How well one model ranks the people of the test set."""

    name: str
    rows: int
    """Rows that it was trained on."""
    auc: float
    """Chance that a taker is ranked above a non-taker, 0 to 1; 0.5 is guessing."""
    roc: tuple[tuple[float, float], ...]
    """(false positive rate, true positive rate), both rising from 0 to 1."""
    lift: tuple[float, ...]
    """Of the best 10 %, 20 %, ... 100 % by score: the share of takers over the share in everyone."""


@dataclass(frozen=True)
class Yardsticks:
    """Models without privacy, for comparison only."""

    pooled: Curve
    alone: tuple[Curve, ...]
    test_rows: int
    test_takers: int


def measure(data: Path, at: datetime) -> Yardsticks:
    """Fits and judges all the models without privacy.

    Args:
        data: An alliance: a folder for each partner with ``customers.csv`` and ``consents.csv``, and ``test.csv``.
        at: Consents must be live at this time (with a time zone).

    Raises:
        DataError: MISSING_FILE, MISSING_COLUMN, BAD_TIME, or BAD_FIELD where a file holds only one kind of label.
    """
    import pandas as pd  # noqa: PLC0415 - as the module says

    if at.tzinfo is None:
        raise DataError(Reason.BAD_TIME, item="at: time without zone")
    test = _read(data / "test.csv", (*FEATURES, LABEL))
    partners = sorted(path.parent.name for path in data.glob("*/customers.csv"))
    if not partners:
        raise DataError(Reason.MISSING_FILE, item="no partner folder with customers.csv")
    files = {partner: _read_agreed(data / partner, at) for partner in partners}
    pooled = pd.concat(list(files.values()), ignore_index=True)
    return Yardsticks(
        pooled=_fit_and_judge("pooled", pooled, test),
        alone=tuple(_fit_and_judge(partner, rows, test) for partner, rows in files.items()),
        test_rows=len(test),
        test_takers=int(test[LABEL].sum()),
    )


def judge(name: str, scores: Floats, labels: Labels, *, rows: int) -> Curve:
    """Judges any model by its scores of the test set, so that all curves are made in one way.

    Args:
        name: Of the model.
        scores: Shape (n,), higher means likelier to take the offer; any monotone scale.
        labels: Shape (n,), 0 or 1.
        rows: How many rows the model was trained on.

    Raises:
        DataError: BAD_FIELD where the shapes differ, a score is not finite or the labels are all the same.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # noqa: PLC0415 - as the module says

    if scores.shape != labels.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise DataError(Reason.BAD_FIELD, item=f"{name}: scores must be finite, one a label")
    if len(np.unique(labels)) != 2:
        raise DataError(Reason.BAD_FIELD, item=f"{name}: the test set needs takers and non-takers")
    false_rate, true_rate, _ = roc_curve(labels, scores)
    grid = np.linspace(0, 1, ROC_POINTS)
    ranked = labels[np.argsort(-scores, kind="stable")]
    reach = [round(len(ranked) * d / DECILES) for d in range(1, DECILES + 1)]
    return Curve(
        name=name,
        rows=rows,
        auc=round(float(roc_auc_score(labels, scores)), 4),
        roc=(
            (0.0, 0.0),
            *(
                (round(float(x), 4), round(float(y), 4))
                for x, y in zip(grid, np.interp(grid, false_rate, true_rate), strict=True)
            ),
        ),
        lift=tuple(round(float(ranked[: max(1, n)].mean() / ranked.mean()), 3) for n in reach),
    )


def _fit_and_judge(name: str, rows: "pd.DataFrame", test: "pd.DataFrame") -> Curve:
    """A plain logistic regression on ``rows``, judged on ``test``."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as the module says

    if rows[LABEL].nunique() != 2:
        raise DataError(Reason.BAD_FIELD, item=f"{name}: the rows need takers and non-takers")
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
    model.fit(MARKETING_V1.encode(rows, FEATURES), rows[LABEL])
    scores = model.decision_function(MARKETING_V1.encode(test, FEATURES))
    return judge(name, scores, test[LABEL].to_numpy(np.int64), rows=len(rows))


def _read_agreed(folder: Path, at: datetime) -> "pd.DataFrame":
    """The customers of one partner whose consent for training is given and not expired."""
    import pandas as pd  # noqa: PLC0415 - as the module says

    customers = _read(folder / "customers.csv", ("customer_id", *FEATURES, LABEL))
    consents = _read(folder / "consents.csv", ("customer_id", "purpose", "status", "given_at", "expires_at"))
    given = consents[(consents["purpose"] == PURPOSE) & (consents["status"] == "given")]
    begin, end = (pd.to_datetime(given[name], utc=True) for name in ("given_at", "expires_at"))
    moment = pd.Timestamp(at.astimezone(UTC))
    live = given.loc[(begin <= moment) & (end > moment), "customer_id"]
    return customers[customers["customer_id"].isin(live)]


def _read(path: Path, columns: tuple[str, ...]) -> "pd.DataFrame":
    """The named columns of a CSV file."""
    import pandas as pd  # noqa: PLC0415 - as the module says

    try:
        table = pd.read_csv(path, usecols=lambda name: name in columns)
    except (OSError, ValueError) as exc:
        raise DataError(Reason.MISSING_FILE, item=f"{path.parent.name}/{path.name}", detail=str(exc)) from exc
    missing = [name for name in columns if name not in table]
    if missing:
        raise DataError(Reason.MISSING_COLUMN, item=f"{path.parent.name}/{path.name}: {', '.join(missing)}")
    return table
