"""Asking a running sglang, vllm or lmdeploy server for scores, the way its users do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import httpx
import numpy as np

from polar_ray.engine.protocol import Scores
from polar_ray.errors import PoolError
from polar_ray.planning import Ids

ServerType = Literal["sglang", "vllm", "lmdeploy"]
Inputs = Sequence[Ids] | Sequence[str]


class ServedModel:
    """A server's scores of token ids, or of ready-made text."""

    def __init__(
        self, url: str, kind: ServerType, *, model: str | None = None, timeout_s: float = 120
    ) -> None:
        self._url = url.rstrip("/")
        self._kind = kind
        self._model = model
        self._http = httpx.Client(timeout=timeout_s)

    def score(self, inputs: Inputs, *, activation: bool | None = None) -> Scores:
        """float32 [inputs]. `activation` False asks vllm for raw scores; None leaves it to what
        POLAR's own client gets, which does not say. Raises `PoolError` for anything but scores."""
        plain = [text if isinstance(text, str) else text.tolist() for text in inputs]
        route, body = request(self._kind, plain, self._model, activation)
        try:
            response = self._http.post(f"{self._url}{route}", json=body)
            answer = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise PoolError(f"{self._url}{route}: {error or type(error).__name__}") from None
        if answer is None:
            said = reason(response.text)
            raise PoolError(f"{self._url}{route} answered {response.status_code}: {said:.200}")
        try:
            return rewards(self._kind, answer, len(plain))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise PoolError(
                f"{self._url}{route} answered with something else than {len(plain)} rewards in "
                f"{self._kind}'s shape ({error!r:.80}); is it served as a reward model?"
            ) from None

    def close(self) -> None:
        """Closes connections."""
        self._http.close()


def request(
    kind: ServerType, inputs: list[Any], model: str | None, activation: bool | None
) -> tuple[str, dict[str, Any]]:
    """Route and body for a list of texts or of lists of ids."""
    named = {} if model is None else {"model": model}
    if kind == "sglang":
        field = "text" if inputs and isinstance(inputs[0], str) else "input_ids"
        return "/classify", {**named, field: inputs}
    extra = {} if activation is None or kind != "vllm" else {"use_activation": activation}
    return "/pooling", {**named, "input": inputs, **extra}


def rewards(kind: ServerType, answer: Any, count: int) -> Scores:
    """The rewards in a server's answer; raises whatever its shape makes fail."""
    if kind == "sglang":
        found = [row["embedding"][0] for row in answer]
    elif kind == "vllm":
        found = [_last(row["data"]) for row in answer["data"]]
    else:
        found = [row["data"] for row in answer["data"]]
    if len(found) != count:
        raise ValueError(f"{len(found)} rewards")
    scores: Scores = np.array(found, dtype=np.float32)
    if scores.shape != (count,):
        raise ValueError(f"rewards of shape {scores.shape}")
    return scores


def reason(text: str) -> str:
    """What a refusal says, out of the JSON of these servers or as it is."""
    try:
        body = json.loads(text)
        inner = body.get("error", body)
        return str(inner["message"] if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError, KeyError):
        return text


def _last(data: Any) -> float:
    """vllm answers with one value for every token, or with the last token's alone."""
    last = data[-1]
    return float(last[0] if isinstance(last, list) else last)
