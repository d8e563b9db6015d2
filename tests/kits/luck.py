"""Tests of chance that do not fail by chance: what is drawn by the operating system cannot be seeded."""

from scipy.stats import binom

LUCK = 1e-7
"""How often a sound program may fail such a test; a run of all tests has about a hundred."""


def holds_as_often(hits: int, tries: int, share: float) -> bool:
    """Whether so many hits are compatible with a chance of ``share`` or more at each of some independent tries."""
    return bool(binom.cdf(hits, tries, share) > LUCK)
