"""Answers which products go together, from a declared cube that is released, or is now, as for any question."""

import math

from federation.core.canonical import digest_hex
from federation.core.errors import DataError, OverlapError, Reason
from federation.overlap.answers import COVERAGE
from federation.overlap.links import Link, Noisy, Ratio, find_links, rules_of
from federation.v1 import overlap_pb2 as pb
from gateway.identity.caller import Caller
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.tables import Tables
from gateway.overlap.wanted import Made
from gateway.release import MAX_ITEM


class LinkRelease:
    """Rules between products of different partners.

    Args:
        tables: Draws and keeps.
        cubes: Names the declared ones.
    """

    def __init__(self, tables: Tables, cubes: CubeRelease) -> None:
        self._tables, self._cubes = tables, cubes

    def query(self, caller: Caller, request: pb.QueryLinksRequest) -> pb.QueryLinksResponse:
        """Rules whose interval supports them.

        Raises:
            DataError: BAD_FIELD.
            OverlapError: QUESTION_MISFIT for a cube that counts no products of two partners; else as ``CubeRelease``.
        """
        bars = {"min_lift": request.min_lift or 1.0, "min_confidence": request.min_confidence}
        if not all(0 <= bar < math.inf for bar in bars.values()):
            raise DataError(Reason.BAD_FIELD, item="field min_lift or min_confidence")
        cube, wanted = self._cubes.wanted(request.cube, request.epoch)
        rules = rules_of(cube.by)
        if cube.sum is not None or not rules:
            usable = [name for name, one in self._cubes.policy.cubes.items() if one.sum is None and rules_of(one.by)]
            item = f"cube {cube.name} counts no products of two partners (holds_ columns); others: {', '.join(usable)}"
            raise OverlapError(Reason.QUESTION_MISFIT, item=item[:MAX_ITEM])

        def answer(made: Made) -> pb.QueryLinksResponse:
            table = made.stored.answer
            least = made.threshold(cube.min_count)
            numbers = zip(table.cells, table.noisy, table.estimates, strict=True)
            cells = {cell: Noisy(drawn, published, 1) for cell, drawn, published in numbers}
            links = find_links(cells, cube.by, table.sigma, coverage=COVERAGE, min_people=least, **bars)
            return pb.QueryLinksResponse(
                cube=cube.name,
                epoch=wanted.epoch,
                links=[_link(link) for link in links],
                candidates=len(rules),
                coverage=COVERAGE,
                epsilon=table.epsilon,
                delta=table.delta,
                sigma=table.sigma,
                min_count=least,
                spent_now=made.drawn,
                released_at=table.released_at,
                policy_version=table.policy_version,
            )

        return self._tables.release(caller, wanted, answer, _digest, find=lambda: self._cubes.find(wanted))


def _link(link: Link) -> pb.Link:
    return pb.Link(
        left=link.left,
        right=link.right,
        people=link.people,
        support=_ratio(link.support),
        confidence=_ratio(link.confidence),
        lift=_ratio(link.lift),
    )


def _ratio(ratio: Ratio) -> pb.Ratio:
    return pb.Ratio(value=ratio.value, low=ratio.low, high=ratio.high)


def _digest(response: pb.QueryLinksResponse) -> dict[str, object]:
    links = [[list(link.left), link.right, link.people] for link in response.links]
    return {"links": len(links), "sha256": digest_hex(links), "spent_now": response.spent_now}
