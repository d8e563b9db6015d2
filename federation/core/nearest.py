"""What somebody may have meant by a name that is not known."""

import difflib
import types
import typing
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pydantic import BaseModel

MAX_WORD = 64
"""Longer words are nobody's slip, and comparing them costs time."""


def nearest(word: str, known: Collection[str]) -> str:
    """The known word that is spelt most like this one, "" where none is close."""
    found = difflib.get_close_matches(word, sorted(known), n=1) if len(word) <= MAX_WORD else []
    return found[0] if found else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """What to say of a name that is not one of a few, all of which may be told."""
    return f'unknown {what} "{word}"; known: {", ".join(known) or "none"}'


def unknown_key(kind: Any, path: Sequence[str | int]) -> str:
    """What to say of a key that a model does not know at a place."""
    word = nearest(str(path[-1]), fields_at(kind, path[:-1]))
    return f"unknown key; did you mean {word}?" if word else "unknown key"


def fields_at(kind: Any, path: Sequence[str | int]) -> frozenset[str]:
    """The keys that a model knows at a place; none where the place is not a model's.

    Args:
        kind: A pydantic model, or the annotation of one of its fields.
        path: Keys and indices from there, as in pydantic's ``loc``.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return fields_at(args[0], path)
    if origin in {typing.Union, types.UnionType}:
        return frozenset().union(*(fields_at(arg, path) for arg in args))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not path:
            return frozenset(kind.model_fields)
        field = kind.model_fields.get(str(path[0]))
        return frozenset() if field is None else fields_at(field.annotation, path[1:])
    if path and origin in {tuple, list, dict}:
        return fields_at(args[1 if origin is dict else 0], path[1:])
    return frozenset()
