"""Neither what is scored nor a token is ever in a log file, nor in the answer to a bad call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from sample_records import BAD_ROWS

from polar_ray.client import connect
from polar_ray.config import EncodingConfig, HttpConfig, PoolConfig, StubEngineConfig
from polar_ray.errors import AuthError, DeadlineExceeded, PolarRayError, RecordError
from polar_ray.pool.local import pool
from polar_ray.stream import ARROW_STREAM, encode_arrow

pytestmark = pytest.mark.ray

NAME = "private"
TEXT = "xyzzy-a-secret-text"
TOKEN = "plugh-a-secret-token"
GUESS = "plover-a-wrong-token"
SECRETS = [one.encode() for one in (TEXT, TOKEN, GUESS)]

GOOD = {"prompt": f"p {TEXT}", "reference": f"r {TEXT}", "output": f"o {TEXT}"}
BAD: list[Any] = [
    *(row for row, _ in BAD_ROWS if not isinstance(row, dict)),
    TEXT,
    [TEXT],
    {**GOOD, "prompt": [TEXT]},
    {**GOOD, "prompt": [{"content": [TEXT]}]},
    {**GOOD, "output": {"content": TEXT}},
    {**GOOD, "output": TEXT * 1000},
    {"prompt": TEXT, "reference": TEXT},
]


def broken_bodies() -> Iterator[tuple[str, bytes]]:
    """Bodies with the text that are refused as a whole."""
    columns = {name: [value] for name, value in GOOD.items()}
    stream = encode_arrow(pa.table(columns))
    yield "application/json", f'{{"records": [{{"prompt": "{TEXT}'.encode()
    yield "application/json", f'["{TEXT}"]'.encode()
    yield "application/json", f'{{"records": "{TEXT}"}}'.encode()
    yield "application/json", f'{{"records": [{{"prompt": "{TEXT}\xff"}}]}}'.encode("latin-1")
    yield "application/json", f'{{"records": [{{"id": 1.5, "prompt": "{TEXT}"}}]}}'.encode()
    yield ARROW_STREAM, stream[:-40]
    yield ARROW_STREAM, stream.replace(TEXT.encode(), TEXT.encode()[:-1] + b"\xff")
    yield ARROW_STREAM, encode_arrow(pa.table({**columns, "more": [TEXT]}))
    yield ARROW_STREAM, encode_arrow(pa.table({"output": [TEXT]}))
    yield "text/plain", TEXT.encode()


def logs() -> dict[Path, bytes]:
    """All files that this cluster's processes have logged to."""
    from ray._private import worker

    session = Path(worker._global_node.get_session_dir_path())
    return {path: path.read_bytes() for path in (session / "logs").rglob("*") if path.is_file()}


def test_no_log_and_no_refusal_holds_what_is_scored(
    cluster: None, tiny_dir: Path, tmp_path: Path
) -> None:
    from ray import serve

    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    # A record takes a tenth of a second, far longer than the deadline of the late call below.
    config = PoolConfig(
        model=str(tiny_dir),
        num_cpus=0.1,
        engine=StubEngineConfig(seconds_per_token=0.002),
        encoding=EncodingConfig(max_field_bytes=2000),
        http=HttpConfig(token_file=str(tmp_path / "tokens"), max_body_bytes=100_000),
    )
    refusals: list[bytes] = []
    with pool(config, name=NAME, route_prefix="/private") as url:
        for client in (connect(app_name=NAME), connect(address=url, token=TOKEN)):
            with client:
                assert None not in client.score([GOOD] * 3)
                errors = client.score_table([*BAD, GOOD])["error"].to_pylist()
                assert None not in errors[:-1]
                refusals += [error.encode() for error in errors[:-1]]
                with pytest.raises(DeadlineExceeded) as late:
                    client.score([GOOD], timeout_s=0.01)
                with pytest.raises(PolarRayError) as refused:
                    client.score([{**GOOD, "id": 1.5}])
                refusals += [str(caught.value).encode() for caught in (late, refused)]
        with pytest.raises(RecordError, match="a batch is a list of records"):
            serve.get_app_handle(NAME).score.remote(TEXT).result()
        with connect(address=url, token=GUESS) as stranger, pytest.raises(AuthError) as denied:
            stranger.score([GOOD])
        refusals.append(str(denied.value).encode())
        for token, expected in ((TOKEN, {413, 422}), (GUESS, {401})):
            for kind, body in [*broken_bodies(), ("application/json", TEXT.encode() * 10_000)]:
                headers = {"content-type": kind, "authorization": f"Bearer {token}"}
                answer = httpx.post(url + "/score", content=body, headers=headers)
                assert answer.status_code in expected
                refusals.append(answer.content)
    found = logs()
    assert any(NAME.encode() in text for text in found.values()), "these are not this pool's logs"
    routers = [text for path, text in found.items() if f"{NAME}_Router" in path.name]
    assert b"request failed: DeadlineExceeded: no answer within 0.01 s" in b"".join(routers)
    assert b"Traceback" not in b"".join(routers)
    assert b"a batch is a list of records" not in b"".join(routers), "it is the caller's to mend"
    for secret in SECRETS:
        assert [path for path, text in found.items() if secret in text] == []
        assert [text for text in refusals if secret in text] == []
