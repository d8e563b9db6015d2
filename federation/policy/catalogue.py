"""Which category and class each field of personal data has. What is not in the catalogue counts as all of them."""

from collections.abc import Iterable

from federation.policy.documents import FieldEntry
from federation.policy.vocabulary import FIELD_CATEGORIES, JRT_CLASSES


class Catalogue:
    """Looks fields up by name; ``bank.value_tier`` is ``value_tier``."""

    def __init__(self, entries: Iterable[FieldEntry]) -> None:
        self._exact = {entry.id: entry for entry in entries if not entry.id.endswith("*")}
        endings = [entry for entry in entries if entry.id.endswith("*")]
        self._starts = sorted(((entry.id[:-1], entry) for entry in endings), key=lambda pair: -len(pair[0]))

    @property
    def names(self) -> frozenset[str]:
        """Fields that have an entry of their own."""
        return frozenset(self._exact)

    def entry(self, field: str) -> FieldEntry | None:
        """The entry of a field: its own, or the one with the longest beginning."""
        name = field.rpartition(".")[2]
        found = self._exact.get(name)
        return found or next((entry for start, entry in self._starts if name.startswith(start)), None)

    def categories(self, field: str) -> frozenset[str]:
        """Its categories; every one for a field without an entry."""
        entry = self.entry(field)
        return frozenset(FIELD_CATEGORIES) if entry is None else frozenset(entry.category)

    def classes(self, field: str) -> frozenset[str]:
        """Its class; every one for a field without an entry."""
        entry = self.entry(field)
        return frozenset(JRT_CLASSES) if entry is None else frozenset({entry.jrt_class})
