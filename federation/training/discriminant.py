"""A linear discriminant from noisy counts: how often each place is taken with each label, and each pair of places.

For one-hot features these counts are the sufficient statistics of least squares: class means and the covariance of the
places. What is added here is what noise makes necessary, all of it post-processing, none of it fitted on rows:

- Pairs of features are taken as independent but where their table says otherwise by ``PAIR_SIGMAS`` of its noise (soft
  thresholding): most pairs are nearly independent, and the noise of all pairs together would drown the rest.
- Weights have a normal prior: log odds move by about ``PRIOR_LOG_ODDS`` from place to place, and neighbouring bands of
  a number move together (correlation exp(-distance / BAND_LENGTH)). With noise of known size, sampling and privacy
  noise together, the weights are the posterior mean. So much noise gives small weights, not wild ones.
- Scores become chances by a logistic curve of the same mean and covariance, over invented rows with the noisy shares.

Constants were chosen on a part of the training rows of the benchmark's data, never on its test set, and are public.

Source: Hastie, Tibshirani, Friedman 2009, section 4.3 (discriminants and least squares); Vu and Slavkovic 2009, and
Wang 2018, arXiv:1803.02596 (regression from perturbed sufficient statistics); Bickel and Levina 2008 (thresholded
covariance).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.training.features import Banded, Feature
from federation.training.models import Weights

Doubles = npt.NDArray[np.float64]
PAIR_SIGMAS = 2.5
PRIOR_LOG_ODDS = 1.0
BAND_LENGTH = 2.0
MIN_CLASS = 10.0
"""Customers that a class has at least for the fit, however the noise fell."""
INVENTED = 4096
"""Rows whose scores stand for the customers' when scores are turned into chances."""
NEWTON_STEPS = 25


@dataclass(frozen=True)
class Counts:
    """Noisy counts, with the standard deviations of their noise. Places are those of the encoded row, d in all."""

    positives: Doubles
    """Rows with the label in each place: float64 (d,)."""
    negatives: Doubles
    """Rows without it: float64 (d,)."""
    pairs: Doubles
    """Rows in both of two places of different features: float64 (d, d), symmetric; zeros within a feature."""
    sigma: Doubles
    """Of ``positives`` and ``negatives``: float64 (d,)."""
    pair_sigma: float

    def totals(self, blocks: list[slice]) -> tuple[float, float, float]:
        """Positives and negatives, as the features agree best, and the standard deviation of each."""
        variances = np.array([np.square(self.sigma[block]).sum() for block in blocks])
        found = [
            float(np.average([values[block].sum() for block in blocks], weights=1 / variances))
            for values in (self.positives, self.negatives)
        ]
        return found[0], found[1], float(np.sqrt(1 / (1 / variances).sum()))


def blocks_of(features: tuple[Feature, ...]) -> list[slice]:
    """The places of each feature in an encoded row, missing and unseen included."""
    blocks: list[slice] = []
    for feature in features:
        start = blocks[-1].stop if blocks else 0
        blocks.append(slice(start, start + len(feature.places) + 2))
    return blocks


def fit(counts: Counts, features: tuple[Feature, ...]) -> Weights:
    """The weights, as those of a logistic regression over encoded rows: float32 (1, d) and (1,)."""
    blocks = blocks_of(features)
    width = blocks[-1].stop
    ones, zeros, total_sigma = counts.totals(blocks)
    ones, zeros = max(ones, MIN_CLASS), max(zeros, MIN_CLASS)
    total = ones + zeros
    rate = ones / total
    # Covariance of the places, times the number of rows.
    marginals = np.maximum(counts.positives + counts.negatives, 0.0)
    expected = np.outer(marginals, marginals) / total
    beyond = counts.pairs - expected
    covariance = np.sign(beyond) * np.maximum(np.abs(beyond) - PAIR_SIGMAS * counts.pair_sigma, 0.0)
    for block in blocks:
        covariance[block, block] = np.diag(marginals[block]) - expected[block, block]
    # The moment is covariance times weights, plus the noise of sampling and of privacy, and of the rate.
    moment = counts.positives * (1 - rate) - counts.negatives * rate
    mixed = (1 - rate) ** 2 + rate**2
    noise = np.diag(rate * (1 - rate) * marginals + mixed * np.square(counts.sigma))
    noise += mixed * (total_sigma / total) ** 2 * np.outer(marginals, marginals)
    prior = np.zeros((width, width))
    for block, feature in zip(blocks, features, strict=True):
        prior[block, block] = np.square(PRIOR_LOG_ODDS * rate * (1 - rate)) * _alike(feature)
    gain = np.linalg.solve(covariance @ prior @ covariance + noise, covariance @ prior).T
    slopes = gain @ moment
    # Least squares predicts ``rate + slopes (row - mean)``; the same order of rows, as log odds.
    mean = marginals / total
    bias, scale = _log_odds(_scores(slopes, mean, blocks, max(float(slopes @ covariance @ slopes), 0.0) / total), rate)
    return {
        "weight": (scale * slopes * math.sqrt(len(features)))[None].astype(np.float32),
        "bias": np.array([bias - scale * float(slopes @ mean)], dtype=np.float32),
    }


def _scores(slopes: Doubles, mean: Doubles, blocks: list[slice], variance: float) -> Doubles:
    """Invented rows' scores around zero: places independent, in their shares; then widened to the variance."""
    rng = np.random.default_rng(INVENTED)
    scores = np.zeros(INVENTED)
    for block in blocks:
        shares = np.maximum(mean[block], 1e-9)
        scores += rng.choice(slopes[block], size=INVENTED, p=shares / shares.sum())
    scores -= scores.mean()
    return np.asarray(scores * math.sqrt(variance / max(float(np.square(scores).mean()), 1e-12)))


def _log_odds(scores: Doubles, rate: float) -> tuple[float, float]:
    """Intercept and scale such that ``intercept + scale * score`` has the mean and covariance of ``rate + score``.

    These are the equations of a logistic regression on one number, solved by Newton's method.
    """
    columns = np.stack([np.ones(len(scores)), scores / max(float(scores.std()), 1e-12)])
    target = columns @ np.clip(rate + scores, 0.0, 1.0) / len(scores)
    solution = np.array([math.log(rate / (1 - rate)), 0.0])
    for _ in range(NEWTON_STEPS):
        chance = 0.5 * (1 + np.tanh(solution @ columns / 2))
        curvature = (columns * (chance * (1 - chance))) @ columns.T / len(scores) + 1e-6 * np.eye(2)
        solution += np.clip(np.linalg.solve(curvature, target - columns @ chance / len(scores)), -1.0, 1.0)
    return float(solution[0]), float(solution[1] / max(float(scores.std()), 1e-12))


def _alike(feature: Feature) -> Doubles:
    """How the weights of a feature's places go together before anything is known: (places, places)."""
    known = len(feature.places)
    alike = np.eye(known + 2)
    if isinstance(feature, Banded):
        distance = np.abs(np.subtract.outer(np.arange(known), np.arange(known)))
        alike[:known, :known] = np.exp(-distance / BAND_LENGTH)
    return alike
