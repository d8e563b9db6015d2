"""What changes from one policy version to another, in words, field by field, and whom it concerns.

Each change is called stricter only where it can let nothing more out, looser where it can, and open where that depends
on the rest. A reader who decides on a veto should take open as looser.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from federation.policy.policy_set import PolicySet
from federation.policy.yaml_text import read_yaml

Effect = Literal["looser", "stricter", "open", "words"]
_WORDS = frozenset({"description", "legal_description", "legal_ref", "reference", "display_name", "message"})
_NAMES = (("mask",), ("cap",), ("segments",))
"""Under these, keys are names of fields, and a field may be called as words are."""
_MORE_IS_STRICTER = frozenset({
    "min_count", "min_k", "cooling_off_days", "pad_to", "min_partners",
    "max_tokens_per_person",  # the noise grows with it
})  # fmt: skip
_MORE_IS_LOOSER = frozenset({
    "epsilon", "delta", "max_epsilon", "max_rounds", "max_open_per_person", "max_valid_days", "valid_to", "period_end",
    "overlap_statistics", "model_training", "offer_sharing",
})  # fmt: skip
_LESS_BUDGET = "questions already paid are not undone; new ones stop where more is spent already"
"""Two versions say nothing of what is spent: only the gateway's ledger does."""
_PERMITTING = frozenset(
    {"sharing", "transfers", "cubes", "products", "channels", "attributes", "segments", "purposes", "models"}
)
"""Lists in which an entry more permits more."""
_OWN = frozenset({"segments", "value_bands", "pad_to", "display_name"})
"""What a party declares about its own data or name alone; its country and role decide where others' data may go."""
_Entries = tuple[Mapping[str, Any], ...]
_KINDS = {
    "rules": "rule", "sharing": "clause", "transfers": "transfer", "cubes": "cube", "parties": "party",
    "products": "product", "purposes": "purpose", "regions": "region", "fields": "field",
    "transfer_limits": "transfer limit",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One thing that is otherwise."""

    file: str
    subject: str  # "rule offers", "clause clause-4-1", "cube venn" or the name of the file
    key: str  # dotted path within the subject; empty where the whole subject came or went
    text: str
    effect: Effect
    concerns: tuple[str, ...]  # partners whose data it is about

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = ("file", "subject", "key", "text", "effect")
        return {name: getattr(self, name) for name in names} | {"concerns": list(self.concerns)}


def changes(old: PolicySet, new: PolicySet) -> tuple[Change, ...]:
    """Every difference, in the order of the files."""
    found: list[Change] = []
    for file in sorted({*old.files, *new.files}):
        scope = _Scope(file, old, new)
        found += scope.walk((), _data(old, file), _data(new, file))
    return tuple(found)


def _data(policy: PolicySet, file: str) -> Any:
    return read_yaml(policy.files[file].encode()).data if file in policy.files else {}


@dataclass(frozen=True)
class _Scope:
    """One file of both versions."""

    file: str
    old: PolicySet
    new: PolicySet

    def walk(self, path: tuple[str, ...], before: Any, after: Any, within: _Entries = ()) -> Iterator[Change]:
        """Changes at and under a place; ``within`` is the entry (rule, clause, cube) around it, before and after."""
        if before == after:
            return
        if isinstance(before, dict) and isinstance(after, dict):
            for key in [*before, *(key for key in after if key not in before)]:
                yield from self.walk((*path, key), before.get(key), after.get(key), within)
        elif _named(before) and _named(after) and (before or after):
            olds, news = _by_name(before), _by_name(after)
            for name in [*olds, *(name for name in news if name not in olds)]:
                entries = within or tuple(side[name] for side in (olds, news) if name in side)
                if name not in news or name not in olds:
                    yield self._whole((*path, name), olds.get(name), news.get(name), entries)
                else:
                    yield from self.walk((*path, name), olds[name], news[name], entries)
        else:
            yield self._field(path, before, after, within)

    def _whole(self, path: tuple[str, ...], before: Any, after: Any, entries: _Entries) -> Change:
        kind = path[-2] if len(path) > 1 else ""
        came = after is not None
        effect: Effect = "open"
        if kind == "rules":
            effect = "looser" if came is (entries[-1].get("effect") == "permit") else "stricter"
        elif kind in _PERMITTING:
            effect = "looser" if came else "stricter"
        shown = _shown(after if came else before)
        text = f"{'new' if came else 'gone'}: {shown}"
        return Change(self.file, self._subject(path), "", text, effect, self._concerns(path, entries))

    def _field(self, path: tuple[str, ...], before: Any, after: Any, within: _Entries) -> Change:
        effect = _effect(path, before, after, within[-1] if within else {})
        if isinstance(before, list) and isinstance(after, list):
            gone = [_shown(item) for item in before if item not in after]
            came = [_shown(item) for item in after if item not in before]
            parts = [f"adds {', '.join(came)}"] * bool(came) + [f"takes away {', '.join(gone)}"] * bool(gone)
            text = "; ".join(parts) or "another order"
        elif before is None:
            text = f"now {_shown(after)}, was not set"
        elif after is None:
            text = f"not set any more, was {_shown(before)}"
        else:
            text = f"now {_shown(after)}, was {_shown(before)}"
        if self._is_less_budget(path, before, after):
            text += f"; {_LESS_BUDGET}"
        subject, depth = self._subject(path), 2 if len(path) > 1 and within else 0
        key = ".".join(path[depth:])
        return Change(self.file, subject, key, text, effect, self._concerns(path, within))

    def _is_less_budget(self, path: tuple[str, ...], before: Any, after: Any) -> bool:
        if self.file != "budget.yaml" or not (path == ("epsilon",) or path[:1] == ("purposes",)):
            return False
        return isinstance(before, int | float) and (
            after is None or (isinstance(after, int | float) and after < before)
        )

    def _subject(self, path: tuple[str, ...]) -> str:
        entry = len(path) > 1 and path[0] in _KINDS
        return f"{_KINDS[path[0]]} {path[1]}" if entry else self.file.removesuffix(".yaml")

    def _concerns(self, path: tuple[str, ...], entries: _Entries) -> tuple[str, ...]:
        partners = {*self.old.partners, *self.new.partners}
        if path[:1] == ("parties",) and path[2:3] and path[2] in _OWN:
            return tuple(sorted(partners & {path[1]}))
        # Before and after: a forbid that does not name a partner any more concerns that one most of all.
        named = [set(_owners(entry) or partners) for entry in entries] or [partners]
        concerned = set().union(*named)
        return tuple(sorted(partners if "partner" in concerned else concerned & partners))


def _owners(entry: Mapping[str, Any]) -> Collection[str]:
    """Whom a rule, clause or cube names as those whose data it is about; nobody where it is about everybody's."""
    match = entry.get("match")
    origin = match.get("origin") if isinstance(match, dict) else entry.get("origin")
    return origin or entry.get("partners") or ()


def _effect(path: tuple[str, ...], before: Any, after: Any, entry: Mapping[str, Any]) -> Effect:
    key = path[-1]
    if key in _WORDS and path[-2:-1] not in _NAMES:
        return "words"
    if isinstance(before, bool) or isinstance(after, bool):
        return "open"
    numbers = all(isinstance(value, int | float) for value in (before, after))
    dates = key in {"valid_to", "period_end"} and all(isinstance(value, str) for value in (before, after))
    if (numbers or dates) and key in _MORE_IS_STRICTER | _MORE_IS_LOOSER:
        more_is_looser = key in _MORE_IS_LOOSER and entry.get("effect") != "forbid"  # which ends: valid_to
        return "looser" if (after > before) is more_is_looser else "stricter"
    widens = _widens(before, after)
    if widens is None:
        return "open"
    permit = entry.get("effect") == "permit"
    if path[0] == "rules" and len(path) > 2 and path[2] == "match":
        return "looser" if widens is permit else "stricter"
    if path[0] == "rules" and len(path) > 3 and path[2] in {"require", "unless"} and isinstance(before, list):
        return "looser" if widens else "stricter"
    if path[0] in {"sharing", "transfers", *_PERMITTING} and isinstance(before, list):
        return "looser" if widens else "stricter"
    return "open"


def _widens(before: Any, after: Any) -> bool | None:
    """Whether a list of what fits takes in more (an absent list fits all); None when it does both, or is no list."""
    if isinstance(before, list) and isinstance(after, list):
        more, less = [x for x in after if x not in before], [x for x in before if x not in after]
        return bool(more) if bool(more) is not bool(less) else None
    if isinstance(before, list) and after is None:
        return True
    if before is None and isinstance(after, list):
        return False
    return None


def _named(value: Any) -> bool:
    """Whether a value is a list of entries with names, or absent."""
    return value is None or (isinstance(value, list) and all(isinstance(x, dict) and _name(x) for x in value))


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("id") or entry.get("name") or "")


def _by_name(entries: Any) -> dict[str, dict[str, Any]]:
    return {_name(entry): entry for entry in entries or ()}


def _shown(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(part)}" for key, part in value.items() if key not in _WORDS | {"id", "name"})
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)
