"""A caller who leaves: what it asked for is not written to the end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from narrowcast_gateway.errors import CallerLeft

T = TypeVar("T")


async def unless_caller_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; cancel it when the caller closes the connection.

    ASGI servers leave that to the application, and vLLM stops writing only when its own caller
    leaves. A RIS that gives up and asks again would else have the GPU write every draft to its end.

    Args:
        request: its body has been read.
        work: what the answer comes from.

    Raises:
        CallerLeft: the caller has closed the connection.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerLeft("the caller closed the connection")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
