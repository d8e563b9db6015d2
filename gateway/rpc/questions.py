"""The questions of the overlap service: thin, over ``gateway.overlap``.

A question that needs a fresh answer waits for partners to confirm that no withdrawal is outstanding. Their answers come
in through this same process; so questions wait in threads of their own and never in those that the rest is done by.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import grpc

from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceServicer
from gateway.identity.caller import current_caller
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease

MAX_AT_ONCE = 32
"""Questions that are worked on at a time; further ones wait for one of them."""
P = ParamSpec("P")
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class QuestionServicer(OverlapServiceServicer):
    """The part of ``federation.v1.OverlapService`` that marketing asks.

    Args:
        cubes: Releases declared tables.
        questions: Answers ad hoc questions.
        links: Finds products that go together.
    """

    def __init__(self, cubes: CubeRelease, questions: AdHocRelease, links: LinkRelease) -> None:
        self._cubes, self._questions, self._links = cubes, questions, links
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="question")

    async def QueryCube(self, request: pb.QueryCubeRequest, _context: Context) -> pb.QueryCubeResponse:
        """A declared table with noise."""
        return await self._answer(self._cubes.query, current_caller(), request.cube, request.epoch)

    async def QueryTable(self, request: pb.QueryTableRequest, _context: Context) -> pb.QueryTableResponse:
        """An ad hoc table with noise."""
        table = await self._answer(self._questions.query, current_caller(), request.question)
        return pb.QueryTableResponse(table=table)

    async def PreviewTable(self, request: pb.PreviewTableRequest, _context: Context) -> pb.PreviewTableResponse:
        """What an ad hoc table would cost."""
        current_caller()
        return await asyncio.to_thread(self._questions.preview, request.question)

    async def QueryLinks(self, request: pb.QueryLinksRequest, _context: Context) -> pb.QueryLinksResponse:
        """Products that go together."""
        return await self._answer(self._links.query, current_caller(), request)

    async def ListCubes(self, _request: pb.ListCubesRequest, _context: Context) -> pb.ListCubesResponse:
        """Declared tables."""
        return await asyncio.to_thread(self._cubes.list_cubes)

    async def _answer(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: run(question, *args, **kwargs))
