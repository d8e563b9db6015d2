"""Parsed files in the words of the code: a purpose by its id wherever a file gives its DPV term."""

from collections.abc import Mapping

from federation.policy.documents import AgreementFile, LocalizationFile, PurposesFile, RulesFile
from federation.policy.limits import TransferLimit


def limits_of(rules: Mapping[str, RulesFile]) -> tuple[TransferLimit, ...]:
    """The transfer limits among the rule files."""
    return tuple(
        limit for file in rules.values() if isinstance(file, LocalizationFile) for limit in file.transfer_limits
    )


def plain_clauses(agreement: AgreementFile, purposes: PurposesFile) -> AgreementFile:
    """The agreement with the ids of purposes wherever it gives their DPV terms."""
    sharing = [clause.model_copy(update={"purpose": _plain(clause.purpose, purposes)}) for clause in agreement.sharing]
    return agreement.model_copy(update={"sharing": tuple(sharing)})


def plain_rules(file: RulesFile, purposes: PurposesFile) -> RulesFile:
    """Rules with the ids of purposes wherever they give their DPV terms."""
    rules = []
    for rule in file.rules:
        if rule.match.purpose is None:
            rules.append(rule)
        else:
            match = rule.match.model_copy(update={"purpose": _plain(rule.match.purpose, purposes)})
            rules.append(rule.model_copy(update={"match": match}))
    return file.model_copy(update={"rules": tuple(rules)})


def _plain(words: tuple[str, ...], purposes: PurposesFile) -> tuple[str, ...]:
    ids = {purpose.dpv: purpose.id for purpose in purposes.purposes}
    return tuple(ids.get(word, word) for word in words)
