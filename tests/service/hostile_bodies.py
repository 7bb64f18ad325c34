"""Bodies that a service must reject, whatever they are made of."""

import json
import random
from collections.abc import Iterator

_VALUES = [
    b"null", b"true", b"-1", b"1.5", b"NaN", b"-Infinity", b"1e999", b"9" * 30, b"9" * 5_000, b'""', b"[]", b"{}",
    b'"\\u0000"', b'"\\ud800"', b'"\xff\xfe"', b"[[[[]]]]", b'{"a":{"a":{}}}', b'"' + b"x" * 5_000 + b'"', b"[null]",
    b'[{"item":null}]', b"'a'", b"[1,]", b'"\n"', b"0x10", b"undefined", b"\x00",
]  # fmt: skip
# Values that are good for a field are no reason to reject a body.
_GOOD = {
    ("user", b"-1"), ("history", b"null"), ("history", b"[]"), ("session", b"[]"), ("groups", b"{}"), ("levers", b"{}"),
    ("allow", b"null"), ("deny", b"[]"), ("deny", b"null"), ("strict", b"true"), ("explain", b"true"), ("user", b"null"),
    ("levers", b"null"), ("timeout_ms", b"null"), ("allow", b"[]"),
}  # fmt: skip
_FIELDS = (
    "user", "history", "session", "groups", "levers", "k", "allow", "deny", "strict", "explain", "timeout_ms",
    "requests", "unknown",
)  # fmt: skip


def hostile_bodies(count: int, *, large: int = 10_000_000) -> Iterator[bytes]:
    """Yields bodies of many kinds, each of which is to be rejected.

    Args:
        count: the number of bodies.
        large: the size of the largest ones, in bytes.
    """
    chosen = random.Random(0)
    yielded = 0
    for body in _fixed(large):
        yield body
        yielded += 1
    pairs = [
        (field, value) for field in _FIELDS for value in _VALUES if (field, value) not in _GOOD
    ]
    for field, value in pairs:
        yield b'{"%s":%s}' % (field.encode(), value)
        yielded += 1
    while yielded < count:
        yield _damaged(chosen)
        yielded += 1


def _fixed(large: int) -> Iterator[bytes]:
    deep = 100_000
    yield b""
    yield b"\x00" * 1_000
    yield b"\xef\xbb\xbf{}"
    yield '{"user":"é"}'.encode("utf-16")
    yield b"[" * deep
    yield b'{"a":' * deep
    yield b"[" * deep + b"]" * deep
    yield b'{"history":' + b"[" * deep + b"]" * deep + b"}"
    yield b'{"user":"' + b"x" * large + b'"}'
    yield b'{"history":[' + b"1," * (large // 2) + b"1]}"
    yield b" " * large
    yield b'{"history":[' + b"true," * 150_000 + b"1]}"
    yield b"{" + b",".join(b'"f%d":1' % number for number in range(60_000)) + b"}"
    yield b'{"k":5,"k":5}'
    yield b'{"levers":{"boost":{"a":1,"a":2}}}'
    yield b'{"groups":{"a":"b","\\u0061":"c"}}'
    yield b'{"requests":[{"user":1,"user":2}]}'
    yield b'{"requests":[' + b"{}," * 256 + b"{}]}"
    yield b'{"k":' + b"1" * 100_000 + b"}"


def _damaged(chosen: random.Random) -> bytes:
    """Returns a good body with a damage that makes it bad."""
    good = {
        "user": "9",
        "session": [5, {"item": 7, "time": 890_000_000_000}],
        "levers": {"boost": {"Drama": 2.0}},
        "k": 5,
    }
    raw = json.dumps(good).encode()
    kind = chosen.randrange(3)
    if kind == 0:
        return raw[: chosen.randrange(len(raw))]
    if kind == 1:
        place = chosen.randrange(len(raw) + 1)
        return raw[:place] + chosen.choice([b"\x00", b"\xff", b"\x1b"]) + raw[place:]
    return raw + chosen.choice([b"}", b"{}", b",", b"x", b"\x00", raw])
