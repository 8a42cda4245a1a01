"""POLAR's own client, for code that is written for it: the same names and arguments, other manners.

It asks a pool of this project or servers of other kinds, several if need be. Whatever goes wrong is
raised: it never returns None, and no reward that is not the server's. Runs POLAR's template by
itself, so that it needs a tokenizer.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import orjson

from polar_ray.call_options import check_timeout
from polar_ray.client.addresses import Wait, ask_around, urls
from polar_ray.client.backoff import Backoff
from polar_ray.client.client import to_list
from polar_ray.client.http import HttpTransport
from polar_ray.client.json_post import post
from polar_ray.client.plain import items_of, texts_of
from polar_ray.client.servers import ServerType, finite_rewards, most_bytes, request
from polar_ray.errors import (
    ConfigError,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
)
from polar_ray.extras import extra_of, install
from polar_ray.records import Batch, Record, Trajectories, Unread, to_batch
from polar_ray.scores import with_row_errors
from polar_ray.token_file import check_token

if TYPE_CHECKING:
    from polar_ray.encoding import Encoder

Kind = Literal["ray", "sglang", "vllm", "lmdeploy"]
DEFAULT_ADDRESS = "127.0.0.1:8000"


class RewardModelClient:
    """Rewards of records from a running server. Threads may share it.

    `path`: a checkpoint, a folder with its tokenizer's files, or a name on a hub (of which only the
    tokenizer is fetched). `max_length`, `max_response_length` and `response_cut_side` ("right"
    keeps the beginning of a response) are POLAR's. `server_type`: "ray", a pool of this project, or
    "sglang", "vllm", "lmdeploy". `server_address`: host:port or a URL; several in a list, or with
    commas: one that fails is followed by the next. `timeout_s` bounds a whole call.
    """

    def __init__(
        self,
        path: str | Path,
        max_length: int = 16384,
        max_response_length: int = 4096,
        response_cut_side: str = "right",
        server_type: str = "ray",
        server_address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        token: str | None = None,
        timeout_s: float = 600,
    ) -> None:
        if server_type not in get_args(Kind):
            raise ConfigError(f"server_type={server_type!r}; use {', '.join(get_args(Kind))}")
        if response_cut_side not in ("right", "left"):
            raise ConfigError(f"response_cut_side={response_cut_side!r}; use right or left")
        self.rm_name = str(path).rstrip("/").split("/")[-1]
        self.server_type = server_type
        self.server_address = server_address
        self.timeout_s = check_timeout(timeout_s)
        self._urls = urls(server_address)
        self._token = check_token(token)
        self._encoder = _encoder(
            path,
            _length("max_length", max_length),
            _length("max_response_length", max_response_length),
            response_cut_side,
        )
        self._pools = (
            [HttpTransport(url, token=token) for url in self._urls] if server_type == "ray" else []
        )

    def __repr__(self) -> str:
        return f"RewardModelClient({self.rm_name!r}, {self.server_type!r}, {', '.join(self._urls)})"

    def __call__(self, data: Any) -> list[float]:
        """The reward of each record, in order: of one record or text, or of several.

        Raises `ScoreError` that names the rows without one, `RecordError` for what is no record,
        `PoolError` where no server answers.
        """
        items = items_of(data)
        if self.server_type == "ray":
            return self._score(to_batch(self._rows(items)))
        ask = {
            "sglang": self.sglang_request_reward,
            "vllm": self.vllm_request_reward,
            "lmdeploy": self.lmdeploy_request_reward,
        }
        return ask[self.server_type](self._encoded(items))

    def encode(self, data: Any) -> str | list[str]:
        """The text that POLAR's template makes of a record, or of each of several; texts stay."""
        if isinstance(data, str | Mapping | Record):
            return self._text(data)
        return self._encoded(items_of(data))

    def ray_request_reward(self, data: Any) -> list[float]:
        """The rewards of encoded texts from a pool of this project."""
        return self._score(to_batch(self._rows(texts_of(data))))

    def sglang_request_reward(
        self, data: Any, retry_delay: float = 0.2, max_retries: int = 8
    ) -> list[float]:
        """The rewards of encoded texts from sglang. All addresses are asked at most `max_retries`
        times."""
        return self._request("sglang", data, retry_delay, max_retries)

    def vllm_request_reward(
        self, data: Any, retry_delay: float = 0.2, max_retries: int = 8
    ) -> list[float]:
        """The same from vllm, which is told to leave rewards as they are."""
        return self._request("vllm", data, retry_delay, max_retries)

    def lmdeploy_request_reward(
        self, data: Any, retry_delay: float = 0.2, max_retries: int = 8
    ) -> list[float]:
        """The same from lmdeploy."""
        return self._request("lmdeploy", data, retry_delay, max_retries)

    def close(self) -> None:
        """Closes connections; the client is not used again."""
        for pool in self._pools:
            pool.close()

    def _encoded(self, items: Sequence[Any]) -> list[str]:
        texts = list[str]()
        for at, item in enumerate(items):
            try:
                texts.append(self._text(item))
            except RecordError as error:
                raise RecordError(f"row {at}: {error}") from None
        return texts

    def _text(self, item: Any) -> str:
        if isinstance(item, str):
            return str(item)
        from polar_ray.encoding import template

        halves = self._trajectories(item)
        first, second = halves.reference, halves.candidate
        return f"{first}{template.SEPARATOR}{second}{template.REWARD_TOKEN}"

    def _trajectories(self, item: Any) -> Trajectories:
        """The two halves of a record's text, cut by this client's limits."""
        from polar_ray.encoding.template import trajectory

        batch = to_batch([item])
        if batch.errors:
            raise RecordError(batch.errors[0])
        [row] = batch.table.to_pylist()
        wrapper = row.get("wrapper") or "sft"
        texts = self._encoder.texts(row["prompt"], row["reference"], row["output"])
        return Trajectories(
            trajectory(texts.prompt, texts.reference, wrapper),
            trajectory(texts.prompt, texts.output, wrapper),
        )

    def _rows(self, items: Sequence[Any]) -> list[Trajectories | Unread]:
        """Records and texts as the pool gets them; a bad one is an error of its row."""
        from polar_ray.encoding.ready_made import cut

        return [cut(item) if isinstance(item, str) else self._row(item) for item in items]

    def _row(self, item: Any) -> Trajectories | Unread:
        try:
            return self._trajectories(item)
        except RecordError as error:
            return Unread(str(error))

    def _score(self, batch: Batch) -> list[float]:
        """From a pool. Its rows say by themselves what is wrong with them."""
        if batch.table.num_rows == 0:
            return []
        backoff = Backoff(self.timeout_s)

        def ask(pool: HttpTransport, seconds: float) -> list[float]:
            table = pool.send(batch.table, seconds, "train")
            found = to_list(with_row_errors(table, batch.errors))
            return [float(score) for score in found if score is not None]

        def wait(error: PolarRayError, _: int) -> float:
            return backoff.wait_s(error)

        return ask_around(self._pools, ask, timeout_s=self.timeout_s, wait=wait)

    def _request(
        self, kind: ServerType, data: Any, retry_delay: float, max_retries: int
    ) -> list[float]:
        texts = texts_of(data)
        if not texts:
            return []
        # As POLAR's own, which names the model to sglang alone; but rewards are wanted as they are.
        model = self.rm_name if kind == "sglang" else None
        route, body = request(kind, texts, model, activation=False)
        content = orjson.dumps(body)
        # A text has at most a token for each of its bytes.
        most = most_bytes([len(text.encode()) for text in texts])

        def ask(url: str, seconds: float) -> list[float]:
            answer = post(f"{url}{route}", content, self._token, seconds, most)
            try:
                return [float(reward) for reward in finite_rewards(kind, answer, len(texts))]
            except ValueError as error:
                raise PoolError(
                    f"{url}{route} answered with something else than {len(texts)} rewards of "
                    f"{kind}'s ({error}); is it {kind}, and serves it a reward model?"
                ) from None

        wait = _rounds(float(retry_delay), int(max_retries))
        return ask_around(self._urls, ask, timeout_s=self.timeout_s, wait=wait)


def _length(name: str, value: Any) -> int:
    """Tokens, which numpy's integers may count."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(f"{name}={value!r:.40} is no whole number of tokens")


def _encoder(path: str | Path, max_length: int, response: int, side: str) -> Encoder:
    from polar_ray.encoding import Encoder, Limits, load_tokenizer
    from polar_ray.encoding.template import REWARD_TOKEN
    from polar_ray.hub import fetch_tokenizer, is_name

    try:
        folder = fetch_tokenizer(str(path)) if is_name(str(path)) else Path(path)
        tokenizer = load_tokenizer(folder)
    except ImportError as error:
        needed = install(extra_of(error.name) or "engine")
        raise ImportError(
            f"RewardModelClient needs a tokenizer; {needed}", name=error.name
        ) from None
    return Encoder(
        tokenizer,
        Limits(max_length, response, "left" if side == "left" else "right"),
        reward_id=tokenizer.control_id(REWARD_TOKEN),
    )


def _rounds(delay_s: float, most: int) -> Wait:
    def wait(error: PolarRayError, rounds: int) -> float:
        if rounds + 1 >= most:
            raise error
        return max(delay_s, error.retry_after_s if isinstance(error, Overloaded) else 0.0)

    return wait
