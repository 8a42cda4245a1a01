"""Mutated bodies: whatever comes in, the answer is a table or one of this project's 4xx errors."""

from __future__ import annotations

import os
import random

import pytest
from fuzz.mutations import LIMITS, json_bodies, mutate, streams

from polar_ray.errors import HTTP_STATUS, RecordError
from polar_ray.pool.http.arrow_body import decode_arrow
from polar_ray.pool.http.json_body import decode_json
from polar_ray.records import check_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS = int(os.environ.get("FUZZ_STREAMS", "100000"))
BODIES = int(os.environ.get("FUZZ_BODIES", "20000"))


def test_mutated_arrow_streams() -> None:
    chance = random.Random(20261121)
    bodies = streams()
    read = refused = longest = 0
    kinds: set[type[RecordError]] = set()
    for _ in range(STREAMS):
        body = mutate(chance.choice(bodies), chance)
        try:
            table = check_table(decode_arrow(body, LIMITS))
        except RecordError as error:
            kinds.add(type(error))
            longest = max(longest, len(str(error)))
            refused += 1
            continue
        table.to_pylist()
        read += 1
    assert read > 0
    assert refused > read
    assert longest < 2000
    assert all(400 <= HTTP_STATUS[kind] < 500 for kind in kinds)


def test_mutated_json_bodies() -> None:
    chance = random.Random(20261121)
    bodies = json_bodies()
    refused = 0
    for _ in range(BODIES):
        body = mutate(chance.choice(bodies), chance)
        try:
            batch = decode_json(body, LIMITS, 1 << 20)
        except RecordError:
            refused += 1
            continue
        batch.table.to_pylist()
    assert refused > BODIES / 4
