"""YAML as compliance may write it: plain data, each value with the place it stands at.

A small, safe part of YAML: one document of mappings, lists and scalars. Anchors, aliases, tags, merge keys, duplicate
keys and multiple documents are refused, and size, depth and count are limited, so that no text can hang or surprise.
Scalars follow the YAML 1.2 core schema where 1.1 would surprise: ``NO`` is Norway and not false, dates stay text.
Source: https://yaml.org/spec/1.2.2/#103-core-schema
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

MAX_BYTES: Final = 128 * 1024
MAX_DEPTH: Final = 16
MAX_NODES: Final = 20_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?([0-9]{1,18}\.[0-9]{1,18}|[0-9]{1,18}(?=[eE]))([eE][-+]?[0-9]{1,3})?")
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}

Path = tuple[str | int, ...]


class Mark(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int


class YamlTextError(Exception):
    """The text is not YAML that we take. ``args[0]`` is a plain sentence, ``fix`` says what to do."""

    def __init__(self, text: str, mark: Mark, path: Path = (), fix: str = "Mend the YAML at this line.") -> None:
        super().__init__(text)
        self.text, self.mark, self.path, self.fix = text, mark, path, fix


@dataclass(frozen=True)
class Document:
    """Plain data and where each value stands; a path ends in the key or index of the value."""

    data: Any
    marks: dict[Path, Mark] = field(default_factory=dict)

    def mark(self, path: Path) -> Mark:
        """The place of a value, or of the nearest value around it."""
        for end in range(len(path), -1, -1):
            if (found := self.marks.get(path[:end])) is not None:
                return found
        return Mark(1, 1)


def read_yaml(raw: bytes) -> Document:
    """Reads one document.

    Raises:
        YamlTextError: With the place and a plain sentence.
    """
    if len(raw) > MAX_BYTES:
        raise YamlTextError(f"larger than {MAX_BYTES} bytes", Mark(1, 1), fix="Make the file smaller.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        mark = Mark(raw[: exc.start].count(b"\n") + 1, 1)
        raise YamlTextError("not UTF-8", mark, fix="Save the file as UTF-8.") from exc
    if text.startswith("\ufeff"):
        fix = "Save the file as UTF-8 without one."
        raise YamlTextError("starts with a byte order mark", Mark(1, 1), fix=fix)
    try:
        return _Reader(yaml.parse(text, Loader=_Loader)).read()
    except yaml.MarkedYAMLError as exc:
        where = exc.problem_mark or exc.context_mark
        raise YamlTextError(exc.problem or "not YAML", _mark(where) if where else Mark(1, 1)) from exc
    except yaml.YAMLError as exc:  # a character that YAML does not allow has no mark
        raise YamlTextError("holds a character that YAML does not allow", Mark(1, 1)) from exc


class _Reader:
    """Turns parser events into data. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events, self._marks, self._nodes = events, dict[Path, Mark](), 0

    def read(self) -> Document:
        next(self._events)  # stream start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Document(None)
        data = self._value(next(self._events), (), 0)
        next(self._events)  # document end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise YamlTextError("holds more than one document", _mark(after.start_mark))
        return Document(data, self._marks)

    def _value(self, event: yaml.Event, path: Path, depth: int) -> Any:
        mark = _mark(event.start_mark)
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise YamlTextError("nested too deeply or too long", mark, path)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlTextError("anchors and aliases are not allowed; write the value out", mark, path)
        if getattr(event, "tag", None):
            raise YamlTextError("tags are not allowed", mark, path)
        self._marks[path] = mark
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, (*path, len(items)), depth + 1))
            return items
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        return _scalar(event)

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            mark = _mark(event.start_mark)
            key = self._value(event, (*path, "?"), depth + 1)
            if not isinstance(key, str):
                raise YamlTextError("a key must be text", mark, path)
            if key == "<<":
                raise YamlTextError("merge keys are not allowed", mark, path)
            if key in found:
                raise YamlTextError(f"the key {key!r} stands here twice", mark, (*path, key))
            found[key] = self._value(next(self._events), (*path, key), depth + 1)
            if not isinstance(found[key], (dict, list)):
                continue
            self._marks[(*path, key)] = mark  # a block is found at its key
        return found


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)
