"""Bodies that are small to send and large to decode."""

from __future__ import annotations

from collections.abc import Callable

GOOD = b'{"prompt":"p","reference":"r","output":"o"}'


def hostile_bodies(size: int) -> dict[str, Callable[[], bytes]]:
    """JSON of about `size` bytes, by what there is too much of; made when it is asked for."""
    return {
        "lists": lambda: _records(_many(b"[]", size)),
        "objects": lambda: _records(_many(b"{}", size)),
        "nulls": lambda: _records(_many(b"null", size)),
        "numbers": lambda: _records(_many(b"1", size)),
        "records": lambda: _records(_many(GOOD, size)),
        "depth": lambda: _records(b"[" * size),
        "messages": lambda: _records(_spoken(size)),
        "messages everywhere": lambda: _records(_many(_spoken(50_000), size)),
        "lists in records": lambda: _records(
            _many(b'{"prompt":[' + _many(b"[]", 50_000) + b"]}", size)
        ),
        "lists in ids": lambda: _records(_many(b'{"id":[' + _many(b"[]", 50_000) + b"]}", size)),
        "keys": lambda: _records(
            b"{" + b",".join(b'"k%d":1' % i for i in range(size // 14)) + b"}"
        ),
        "equal keys": lambda: _records(b"{" + _many(b'"k":[]', size) + b"}"),
        "digits": lambda: _records(b"1" * size),
        "a string": lambda: _records(_text(b"x" * size)),
        "wide strings": lambda: _records(_many(_text(_wide(500_000)), size)),
        "wide ids": lambda: _records(_many(GOOD[:-1] + b',"id":"%b"}' % _wide(500_000), size)),
        "backslashes": lambda: _records(_text(b"\\\\" * (size // 2))),
        "spaces": lambda: _records(b" " * size),
        "another key": lambda: b'{"x":[%b],"records":[]}' % _many(b"[]", size),
        "another key behind": lambda: b'{"records":[],"x":[%b]}' % _many(b"[]", size),
        "no array": lambda: b'{"records":{%b}}' % _many(b'"k":[]', size),
        "no end": lambda: b'{"records":[' + _many(GOOD, size),
    }


def _records(inner: bytes) -> bytes:
    return b'{"records":[%b]}' % inner


def _many(unit: bytes, size: int) -> bytes:
    return b",".join([unit] * max(1, size // (len(unit) + 1)))


def _text(text: bytes) -> bytes:
    return b'{"prompt":"%b","reference":"r","output":"o"}' % text


def _spoken(size: int) -> bytes:
    return b'{"prompt":[%b],"reference":"r","output":"o"}' % _many(b'{"content":"ab"}', size)


def _wide(size: int) -> bytes:
    """Letters and a character for which Python takes four bytes for each of them."""
    return b"x" * size + "\N{GRINNING FACE}".encode()
