"""Names and fields across the files: the catalogue of fields, masks that fit their field, limits on transfers."""

from collections.abc import Iterator

from federation.policy.catalogue import Catalogue
from federation.policy.check import Bundle, Problem
from federation.policy.documents import RULE_FILES
from federation.policy.mask import KEEP, shown_as_it_is
from federation.policy.plain import limits_of

FITTING = {
    "word": frozenset({"drop", "pseudonym"}),
    "text": frozenset({"drop"}),
    "number": frozenset({"band", "drop"}),
    "date": frozenset({"year", "drop"}),
    "region": frozenset({"country", "drop"}),
    "email": frozenset({"email", "pseudonym", "drop"}),
    "phone": frozenset({"phone", "pseudonym", "drop"}),
    "card": frozenset({"card", "pseudonym", "drop"}),
    "id_number": frozenset({"id_number", "pseudonym", "drop"}),
    "name": frozenset({"name", "drop"}),
    "code": frozenset({"pseudonym", "drop"}),
}
"""Type of a field to the masks that make sense for it. A mask for another type may show more than it is meant to."""


def check_terms(bundle: Bundle) -> Iterator[Problem]:
    """Everything that is wrong with fields and limits."""
    seen: set[str] = set()
    for at, entry in enumerate(bundle.purposes.fields):
        if entry.id in seen:
            yield Problem("purposes.yaml", ("fields", at, "id"), f"{entry.id} stands here twice")
        seen.add(entry.id)
    catalogue = Catalogue(bundle.purposes.fields)
    for file in RULE_FILES:
        for at, rule in enumerate(bundle.rules[file].rules):
            for name, mask in (rule.require.mask if rule.require else {}).items():
                found = catalogue.entry(name)
                kind = mask.partition("(")[0]
                if kind == KEEP and found is None:
                    text, fix = "keep is no mask", "Name the field under fields, or mask it."
                    yield Problem(file, ("rules", at, "require", "mask", name), text, rule.id, fix)
                if found is not None and kind not in FITTING[found.type]:
                    text = f"{name} is of the type {found.type}, which {kind} does not mask"
                    fix = f"Use one of: {', '.join(sorted(FITTING[found.type]))}."
                    yield Problem(file, ("rules", at, "require", "mask", name), text, rule.id, fix)
                if (number := shown_as_it_is(mask)) is not None:
                    text, fix = f"{mask} shows {number} as it is", "Put the edges further apart."
                    yield Problem(file, ("rules", at, "require", "mask", name), text, rule.id, fix)
    yield from _limits(bundle)


def _limits(bundle: Bundle) -> Iterator[Problem]:
    file, seen = "localization.yaml", dict[tuple[str, str], str]()
    countries = {region.id: region.countries for region in bundle.purposes.regions}
    for at, limit in enumerate(limits_of(bundle.rules)):
        if limit.subject_region not in bundle.areas:
            known = ", ".join(sorted(bundle.areas))
            text = f"unknown subject_region {limit.subject_region}; known are {known}"
            yield Problem(file, ("transfer_limits", at, "subject_region"), text)
        area = countries.get(limit.subject_region, (limit.subject_region,))
        taken = {(seen.setdefault((country, c), limit.id), c) for country in area for c in limit.data_category}
        for other, category in sorted(taken):
            if other != limit.id:
                text = f"{other} already limits {category} out of a country of {limit.subject_region}"
                yield Problem(file, ("transfer_limits", at, "data_category"), text)
