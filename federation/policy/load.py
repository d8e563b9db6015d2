"""From a folder (or texts) to a policy set. All or nothing: one problem in one file, and there is no policy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from federation.core.canonical import canonical_json, digest_hex
from federation.core.errors import PolicyError, Reason
from federation.core.ids import PolicyVersion
from federation.core.nearest import unknown_key
from federation.policy.alliance import build_alliance
from federation.policy.check import Bundle, Problem, check_bundle
from federation.policy.check_terms import check_terms
from federation.policy.compile import compile_rules
from federation.policy.documents import DOCUMENTS, RULE_FILES, RulesFile
from federation.policy.plain import limits_of, plain_clauses, plain_rules
from federation.policy.policy_set import PolicySet
from federation.policy.yaml_text import MAX_BYTES, Document, YamlTextError, read_yaml
from federation.policy.yaml_text import Path as Place

MAX_ITEM_CHARS = 400
MAX_MEANT = 100
"""So many unknown keys of a file are compared with the known ones; a file of nothing else is not worth the time."""


@dataclass(frozen=True)
class Draft:
    """What texts gave: the documents with their places, the bundle if every file fits its model, and the problems."""

    files: Mapping[str, str]
    documents: Mapping[str, Document]
    bundle: Bundle | None
    problems: tuple[Problem, ...]

    def place(self, problem: Problem) -> tuple[int, int]:
        """Line and column of a problem, from 1."""
        document = self.documents.get(problem.file)
        return document.mark(problem.path) if document is not None else (1, 1)

    def describe(self, problem: Problem) -> str:
        """``file:line:column key: text``."""
        line, column = self.place(problem)
        key = ".".join(str(part) for part in problem.path)
        return f"{problem.file}:{line}:{column} {key}: {problem.text}"[:MAX_ITEM_CHARS]


def load_policy(folder: Path) -> PolicySet:
    """Reads a policy folder.

    Raises:
        PolicyError: MISSING_FILE when the folder cannot be read; POLICY_INVALID with
            ``agreement.yaml:12:3 parties.0.country: ...`` of the first problem.
    """
    return parse_policy(read_folder(folder))


def parse_policy(files: Mapping[str, str]) -> PolicySet:
    """Makes a policy set of texts: file name to YAML.

    Raises:
        PolicyError: POLICY_INVALID.
    """
    draft = draft_policy({name: text.encode("utf-8", "surrogatepass") for name, text in files.items()})
    if draft.bundle is None or draft.problems:
        more = f" (and {len(draft.problems) - 1} more)" if len(draft.problems) > 1 else ""
        fix = "Run `entente policy check` on the folder; it lists every problem."
        raise PolicyError(Reason.POLICY_INVALID, item=draft.describe(draft.problems[0]) + more, fix=fix)
    bundle = draft.bundle
    tables = build_alliance(bundle.agreement, bundle.purposes, limits_of(bundle.rules))
    rules = tuple(rule for file in RULE_FILES for rule in bundle.rules[file].rules)
    return PolicySet(
        version=PolicyVersion(digest_hex({name: document.data for name, document in draft.documents.items()})),
        alliance=bundle.agreement.alliance,
        parties=MappingProxyType({party.id: party for party in bundle.agreement.parties}),
        cubes=MappingProxyType({cube.name: cube for cube in bundle.cubes.cubes}),
        ad_hoc=bundle.cubes.ad_hoc,
        budget=bundle.budget,
        training=bundle.training,
        offers=bundle.offers,
        rules=rules,
        files=MappingProxyType(dict(draft.files)),
        _tables=tables,
        _index=compile_rules(rules, (purpose.id for purpose in bundle.purposes.purposes), tables),
    )


def read_folder(folder: Path) -> dict[str, str]:
    """The texts of a policy folder. Sub-folders and files that are no YAML are not part of the policy.

    Raises:
        PolicyError: MISSING_FILE or POLICY_INVALID.
    """
    found: dict[str, str] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in {".yaml", ".yml"} or path.name.startswith("."):
                continue
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            try:
                found[path.name] = raw.decode("utf-8")
            except UnicodeDecodeError as exc:
                raise PolicyError(Reason.POLICY_INVALID, item=f"{path.name}:1:1 not UTF-8") from exc
    except OSError as exc:
        fix = "Give a folder like policies/ of this project."
        raise PolicyError(Reason.MISSING_FILE, item=str(folder), detail=str(exc), fix=fix) from exc
    return found


def draft_policy(files: Mapping[str, bytes]) -> Draft:
    """Parses and checks texts; never raises for what they hold."""
    documents: dict[str, Document] = {}
    parsed: dict[str, Any] = {}
    problems: list[Problem] = []
    for name in sorted(files):
        if name not in DOCUMENTS:
            known = ", ".join(DOCUMENTS)
            problems.append(
                Problem(
                    name[:80], (), f"no policy file has this name; known are {known}", fix="Rename it, or take it out."
                )
            )
            continue
        try:
            documents[name] = read_yaml(files[name])
        except YamlTextError as exc:
            documents[name] = Document(None, {(): exc.mark, exc.path: exc.mark})
            problems.append(Problem(name, exc.path, exc.text, fix=exc.fix))
            continue
        if empty := list(_empty(documents[name].data)):
            fix = "Write one, or take the key out: without it, a rule may fit everything."
            problems.extend(Problem(name, path, "no value stands here", fix=fix) for path in empty)
            continue
        try:
            # Through JSON, because only there "strict" still takes lists for tuples and text for dates.
            parsed[name] = DOCUMENTS[name].model_validate_json(canonical_json(documents[name].data), strict=True)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
            problems.extend(_problem(name, error, meant=at < MAX_MEANT) for at, error in enumerate(errors))
    fix = "Add it; policies/ of this project has one of every file."
    problems.extend(Problem(name, (), "the file is missing", fix=fix) for name in DOCUMENTS if name not in files)
    texts = {name: raw.decode("utf-8", "replace") for name, raw in files.items()}
    if problems:
        return Draft(texts, documents, None, tuple(problems))
    purposes = parsed["purposes.yaml"]
    bundle = Bundle(
        agreement=plain_clauses(parsed["agreement.yaml"], purposes),
        purposes=purposes,
        offers=parsed["offers.yaml"],
        cubes=parsed["cubes.yaml"],
        budget=parsed["budget.yaml"],
        training=parsed["training.yaml"],
        rules={name: plain_rules(cast(RulesFile, parsed[name]), purposes) for name in RULE_FILES},
    )
    return Draft(texts, documents, bundle, (*check_bundle(bundle), *check_terms(bundle)))


def _empty(data: Any, path: Place = ()) -> Iterator[Place]:
    """Places of keys and items without a value, as a list that was commented out leaves one: it is not "any"."""
    if data is None and path:
        yield path
    for key, part in data.items() if isinstance(data, dict) else enumerate(data if isinstance(data, list) else ()):
        yield from _empty(part, (*path, key))


def _problem(file: str, error: ErrorDetails, *, meant: bool) -> Problem:
    """Pydantic's words as ours."""
    path, kind = error["loc"], error["type"]
    if kind == "missing":
        return Problem(file, path, "this key is missing", fix="Add it.")
    if kind == "extra_forbidden":
        text = unknown_key(DOCUMENTS[file], path) if meant else "unknown key"
        return Problem(file, path, text, fix="Write a key that the file knows, or take it out.")
    return Problem(file, path, error["msg"].removeprefix("Value error, "))
