"""Small changes of bytes and of JSON documents, the same for the same seed."""

import json
import random
import struct
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["mutated_bytes", "mutated_document", "mutated_zip"]

_NUMBERS: Final = (0, 1, -1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, 1e-320, -0.0)
_TEXTS: Final = (
    *("", " ", "\0", "x" * 5000, "\u202e", "\ud800", "\U0001f697", "é", "e\u0301", "\r\n", "'; DROP TABLE x; --"),
    *("{", "{{", "}", "{}", "{x}", "{a.b.c}", "{0}", "{x!r}", "{x:>99999999}", "{__class__}", "{record_id.__init__}"),
    *("../../etc/passwd", "/etc/passwd", "C:\\x", "NUL", "a/../b", "pipeline.json", ".", "tiny_detector.onnx/"),
    *("redis_save_image", "webhook", "postgresql_update", "NaN", "null", "1", "true", "http://169.254.169.254/"),
)
_RAW: Final = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-",
        "01",
        "1.",
        "tru",
        "{",
        "]",
        '"',
        '"\\u',
        '"\\ud800"',
        "\x00",
        "\ufeff",
    ),
    *("[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "9" * 50_000, '"' + "x" * 200_000 + '"'),
    *("[" + "0," * 50_000 + "0]", "{" + ",".join(f'"k{one}":0' for one in range(5000)) + "}", "/**/", "'x'", "0x10"),
)


class _Raw(str):
    """Text that goes into the file as it is."""

    __slots__ = ()


def mutated_bytes(rng: random.Random, content: bytes, *, others: tuple[bytes, ...] = ()) -> bytes:
    """Change a few bits, bytes, words or pieces; ``others`` are where pieces may come from."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) or 1)
        match rng.randrange(8):
            case 0 | 1 if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case 2 if changed:
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                kind, bits = rng.choice((("<H", 16), ("<I", 32), ("<Q", 64)))
                number = rng.choice((0, 1, 2 ** (bits - 1), 2**bits - 1, rng.getrandbits(bits)))
                changed[at : at + bits // 8] = struct.pack(kind, number)
            case 4:
                del changed[at : at + rng.choice((1, 4, 30, rng.randrange(1, 2000)))]
            case 5:
                del changed[at:]
            case 6:
                source = rng.choice((content, *others))
                start = rng.randrange(len(source) or 1)
                piece = source[start : start + rng.choice((1, 4, 46, rng.randrange(1, 2000)))]
                changed[at : at + rng.choice((0, len(piece)))] = piece
            case _:
                changed[at:at] = bytes(rng.randrange(64))
    return bytes(changed)


def mutated_zip(rng: random.Random, content: bytes) -> bytes:
    """Change an archive: half of the time in its headers, where most of a small change's harm can be done."""
    if rng.random() < 0.5:
        return mutated_bytes(rng, content)
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        signature, length = rng.choice(((b"PK\3\4", 30), (b"PK\1\2", 46), (b"PK\5\6", 22)))
        places = [at for at in range(len(content)) if content.startswith(signature, at)]
        at, other = rng.choice(places), rng.choice(places)
        if rng.random() < 0.2:  # swapped headers
            changed[at : at + length], changed[other : other + length] = (
                changed[other : other + length],
                changed[at : at + length],
            )
        else:
            size = rng.choice((1, 2, 4))
            place = at + rng.randrange(4, length - size + 1)
            number = rng.choice((0, 1, len(content), 2 ** (8 * size) - 1, rng.getrandbits(8 * size)))
            changed[place : place + size] = (number % 256**size).to_bytes(size, "little")
    return bytes(changed)


def mutated_document(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Change a JSON document: kinds, keys, numbers, texts, nesting; sometimes it is none afterwards."""
    changed = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        places = list(_places(changed))
        if not places:
            break
        parent, key = rng.choice(places)
        _change(rng, parent, key, places)
    return _dump(changed).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    steps: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in steps:
        yield value, key
        yield from _places(inner)


def _change(rng: random.Random, parent: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    other_parent, other_key = rng.choice(places)
    match rng.randrange(9):
        case 0:
            del parent[key]
        case 1:
            parent[key] = rng.choice(_NUMBERS)
        case 2:
            parent[key] = rng.choice(_TEXTS)
        case 3:
            parent[key] = _Raw(rng.choice(_RAW))
        case 4:
            parent[key] = rng.choice((None, True, False, [], {}, [[]], {"": None}, [None] * 300, {"type": "x"}))
        case 5:
            parent[key] = _Raw(_dump(other_parent[other_key]))
        case 6 if isinstance(parent, dict):  # a key that is wrong, or stands twice
            name = rng.choice((key[:-1], key.upper(), f"{key}x", rng.choice(_TEXTS), str(other_key)))
            parent[name] = parent[key] if rng.random() < 0.5 else parent.pop(key)
        case 7 if isinstance(parent, dict):
            parent[key] = _Raw(f"{_dump(parent[key])}, {json.dumps(key)}: {_dump(rng.choice(_NUMBERS))}")
        case _:
            opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ("[[null],", "]")))
            levels = rng.choice((1, 10, 60, 64, 300, 50_000))
            parent[key] = _Raw(opening * levels + _dump(parent[key]) + closing * levels)


def _dump(value: Any) -> str:
    """Write JSON, raw pieces as they are."""
    if isinstance(value, _Raw):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_dump(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
