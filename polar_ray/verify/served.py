"""Asking a running sglang, vllm or lmdeploy server for scores, the way its users do."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from polar_ray.client.servers import ServerType, reason, request, rewards
from polar_ray.engine.protocol import Scores
from polar_ray.errors import PoolError
from polar_ray.planning import Ids

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
            raise PoolError(f"{self._url}{route}: {str(error) or type(error).__name__}") from None
        if answer is None:
            said = reason(response.text)
            raise PoolError(f"{self._url}{route} answered {response.status_code}: {said:.200}")
        try:
            return rewards(self._kind, answer, len(plain))
        except ValueError as error:
            raise PoolError(
                f"{self._url}{route} answered with something else than {len(plain)} rewards in "
                f"{self._kind}'s shape ({error!r:.80}); is it served as a reward model?"
            ) from None

    def close(self) -> None:
        """Closes connections."""
        self._http.close()
