"""NeMo Gym: `PolarResourcesServer`, whose POST /verify scores a response.

`reference` of a data set's row is the reference. NeMo Gym makes `"reward": null` of NaN and a
status of 500 of an exception; a row without a score is a 500 that says why.
"""

from __future__ import annotations

from typing import Any

from polar_ray.adapters.bases import keep, no_such
from polar_ray.adapters.pool import all_scores
from polar_ray.adapters.rows import plain, record
from polar_ray.adapters.settings import read_settings
from polar_ray.errors import PolarRayError, RecordError


async def reward_of(prompt: Any, reference: Any, output: Any) -> float:
    """The score of one response in the shape of OpenAI's Responses; its reasoning is not scored."""
    settings = read_settings()
    (score,) = await all_scores([record(prompt, reference, answer(output), settings)], settings)
    return score


def answer(output: Any) -> list[Any]:
    """The messages of a response's output."""
    items = plain(output)
    if not (isinstance(items, list) and all(isinstance(item, dict) for item in items)):
        raise RecordError(f"a response's output is a list of items, not {items!r:.80}")
    return [item for item in items if item.get("type") == "message"]


def _server() -> Any:
    from fastapi import HTTPException
    from nemo_gym.base_resources_server import (
        BaseVerifyRequest,
        BaseVerifyResponse,
        SimpleResourcesServer,
    )
    from pydantic import ConfigDict

    class PolarVerifyRequest(BaseVerifyRequest):  # type: ignore[misc]
        model_config = ConfigDict(extra="allow")
        reference: Any = None

    class PolarVerifyResponse(BaseVerifyResponse):  # type: ignore[misc]
        model_config = ConfigDict(extra="allow")

    class PolarResourcesServer(SimpleResourcesServer):  # type: ignore[misc]
        """A resources server whose reward is POLAR's."""

        async def verify(self, body):  # type: ignore[no-untyped-def]
            try:
                prompt = body.responses_create_params.input
                reward = await reward_of(prompt, body.reference, body.response.output)
            except PolarRayError as error:
                raise HTTPException(500, f"{type(error).__name__}: {error}") from None
            return PolarVerifyResponse(**body.model_dump(), reward=reward)

    # FastAPI reads the types of a route's body and answer here, and needs the classes.
    verify: Any = PolarResourcesServer.verify
    verify.__annotations__ = {"body": PolarVerifyRequest, "return": PolarVerifyResponse}
    PolarResourcesServer.__qualname__ = PolarResourcesServer.__name__
    return PolarResourcesServer


def __getattr__(name: str) -> Any:
    if name != "PolarResourcesServer":
        raise no_such(__name__, name)
    return keep(_server(), name, __name__)
