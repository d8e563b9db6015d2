"""Who is one person when people have several identifiers, and what that costs in noise.

The choice
    A row of a batch has one point for each key type of the plan, blinded and shuffled as a group; where somebody has no
    identifier of a type stands a random point, so that nobody sees who lacks what. At the gateway two rows are the same
    person when they share a token of any key type, and so are rows that others connect: a person is a connected
    component of rows, is at the partners whose rows are in it, and counts once, in one cell.

    The alternatives are worse. Matching by each key type and adding up counts a person up to three times and cannot say
    who is at all partners. One canonical key a person, by agreed precedence, keeps every count at one cell a token, but
    two partners that hold different keys of the same person never meet: it finds what the best single key finds, and
    less where the preferred one is mistyped.

What the gateway learns more
    Which rows share which tokens: how many rows make one person, within a partner too, and by how many of the points.
    Never which identifiers. A hop learns which rows of one origin share an identifier, in whatever batches of the base
    or in one batch of a delta: they are equal points. Of a delta it learns nothing about rows of before. A row is moved
    as a whole.

Sensitivity
    Neighbours differ by one person with all rows it has anywhere, and at most t identifiers. With one key type a token
    is in one cell, and we count t (``gateway.overlap.cubes`` says why). With several:

    - What the person's own rows connect falls into j <= t clusters, each in one component: adding the person takes away
      the components that its tokens join, and puts at most j in their place.
    - Without the person, a component falls apart into pieces; each piece holds one of the person's tokens, and rows
      that share a token are in the same piece. So there are at most t pieces.

    The counts change by at most t ones up and at most j <= t ones down: L1 <= 2 t. In L2 that is largest when all
    pieces are in one cell and all clusters in another: sqrt(t^2 + j^2) <= t sqrt(2). Whoever has one identifier of
    every key type has as many as there are types; so an epoch by several keys is never released with a smaller t,
    whatever a cube declares. Rows of strangers that share an identifier (a family's phone) are joined: that is an error
    of the match, and the bound above covers it.

    Unlike a canonical key, this bound is met only by somebody who shares each identifier with other people who share
    none. It is a worst case all the same, and noise is calibrated to it.

How well it matches (``tests/sim/test_overlap_epoch_matching.py`` prints this)
    Name with date of birth stands in for a second key, which neither file has; it is no key type of ours.

    ==========================================  =============  ======  =========
    file                                        matched by     recall  precision
    ==========================================  =============  ======  =========
    febrl4a/b: 5,000 pairs, errors in fields    national id     0.912      1.000
    .                                           name + birth    0.416      1.000
    .                                           canonical key   0.912      1.000
    .                                           both, joined    0.953      1.000
    fake_1000: 1,000 rows in 251 clusters       e-mail          0.336      1.000
    .                                           name + birth    0.058      1.000
    .                                           both, joined    0.414      1.000
    ==========================================  =============  ======  =========

    The canonical key there is the national id, or name with birth where it is missing: it is never missing, only wrong,
    which is what a precedence cannot see. Exact tokens cannot find two spellings of everything at once; that is the
    rest of the recall.
"""

import math

from federation.overlap.plan import key_types_of


def l2_sensitivity(key_type: str, max_tokens_per_person: int) -> float:
    """How far one person moves a vector of cell counts at most, in L2.

    Args:
        key_type: Of the epoch's plan.
        max_tokens_per_person: Identifiers that one person has at most over all partners, as a cube declares.

    Raises:
        OverlapError: BAD_FIELD for a key type that no plan can have.
    """
    kinds = len(key_types_of(key_type))
    if kinds == 1:
        return float(max_tokens_per_person)
    return math.sqrt(2) * max(max_tokens_per_person, kinds)
