"""The OpenAPI page against the app: schemathesis makes requests from it, good and bad ones, and
holds every answer against what the page says of it."""

from __future__ import annotations

import pyarrow as pa
import pytest
import schemathesis
from hypothesis import settings
from hypothesis import strategies as st
from sample_records import records
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import CHECKS, load_all_checks
from scorer_as_router import ScorerAsRouter

from polar_ray.pool.http.auth import Tokens
from polar_ray.pool.http.formats import FORMATS
from polar_ray.pool.http.json_body import JSON
from polar_ray.pool.http.routes import build_http
from polar_ray.scorer import Scorer
from polar_ray.stream import ARROW_STREAM, encode_arrow

TOKEN = "of-this-test"
FOREIGN = [path for known in FORMATS for path in known.paths]
SOON_S = 0.1
"""A deadline below this may be over before the work is done: 504 is the right answer."""


class OneToken(Tokens):
    """Knows its token without a file."""

    def __init__(self) -> None:
        pass

    def allow(self, authorization: str | None) -> bool:
        return authorization == f"Bearer {TOKEN}"


# The page is read while tests are collected, when there is no scorer yet.
router = ScorerAsRouter(None, tokens=OneToken())  # type: ignore[arg-type]
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
api = schemathesis.openapi.from_asgi(
    "/openapi.json", build_http(lambda: router), headers=AUTHORIZATION
)


@schemathesis.serializer(ARROW_STREAM)
def _as_it_is(context: schemathesis.SerializationContext, body: bytes) -> bytes:
    return body


def stream(rows: list[dict[str, str]]) -> bytes:
    """Records as an Arrow stream."""
    schema = pa.schema([(name, pa.string()) for name in ("prompt", "reference", "output")])
    return encode_arrow(pa.Table.from_pylist(rows, schema=schema))


schemathesis.openapi.media_type(ARROW_STREAM, st.lists(records, max_size=4).map(stream))

load_all_checks()
REPLACED = CHECKS.get_by_names(
    ["not_a_server_error", "negative_data_rejection", "positive_data_acceptance"]
)
server_error, accepted_though_bad, refused_though_good = REPLACED


def no_server_error(context: CheckContext, response: Response, case: Case) -> bool | None:
    """No 5xx, but for deadlines that nobody could keep."""
    asked_for = case.query.get("timeout_s")
    if response.status_code == 504 and asked_for is not None and float(asked_for) < SOON_S:
        return None
    return server_error(context, response, case)


def bad_data_has_no_score(context: CheckContext, response: Response, case: Case) -> bool | None:
    """What breaks the page is refused; a bad record is an error of its own row."""
    rows = []
    if case.path == "/score" and response.headers["content-type"] == [JSON]:
        rows = response.json().get("results", [])
    if any(row["error"] for row in rows):
        return None
    return accepted_though_bad(context, response, case)


def good_data_is_accepted(context: CheckContext, response: Response, case: Case) -> bool | None:
    """What the page allows is served, but for what it says in words only: all ids are of one kind,
    and 1.0 is no integer, though JSON Schema takes it for one; texts of other servers' formats are
    POLAR's template, and their lists of equal lengths."""
    words = ("ids must", "valid integer", "have no score", "equal lengths", "send as many")
    if response.status_code == 422 and any(word in response.text for word in words):
        return None
    return refused_though_good(context, response, case)


@pytest.fixture(autouse=True)
def _serve(scorer: Scorer) -> None:
    router.scorer = scorer


def check_answer(case: Case) -> None:
    case.call_and_validate(
        headers=AUTHORIZATION,
        excluded_checks=REPLACED,
        additional_checks=[no_server_error, bad_data_has_no_score, good_data_is_accepted],
    )


@api.exclude(path=FOREIGN).parametrize()
@settings(max_examples=80, derandomize=True, database=None)
def test_every_answer_is_on_the_page(case: Case) -> None:
    check_answer(case)


@api.include(path=FOREIGN).parametrize()
@settings(max_examples=5, derandomize=True, database=None)
def test_so_are_those_in_other_servers_formats(case: Case) -> None:
    check_answer(case)
