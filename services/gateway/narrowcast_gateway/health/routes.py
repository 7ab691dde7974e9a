"""Health: the only endpoints without a key."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from narrowcast_gateway.deps import ServicesDep

router = APIRouter(tags=["health"])
Answer = Literal["ok", "unavailable"]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the gateway needs, each by its answer."""

    status: Answer
    redis: Answer
    storage: Answer
    inference: dict[str, Answer]
    """By base model. One that is down does not make the gateway unready: the rest works."""


@router.get("/healthz")
def liveness() -> Liveness:
    """Say that the process is alive."""
    return Liveness()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readiness(services: ServicesDep, response: Response) -> Readiness:
    """Ask Redis, the object store and the inference servers."""
    stores = await services.check_stores()
    inference = await services.generation.check()
    ready = all(stores.values())
    if not ready:
        response.status_code = 503
    return Readiness(
        status=_answer(ready),
        redis=_answer(stores["redis"]),
        storage=_answer(stores["storage"]),
        inference={base: _answer(up) for base, up in inference.items()},
    )


def _answer(up: bool) -> Answer:
    return "ok" if up else "unavailable"
