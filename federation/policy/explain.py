"""A decision as a short text that a person can read."""

from federation.policy.facts import Decision, Obligations


def explain(decision: Decision) -> str:
    """Several lines: the answer, every reason with its law, the duties, the version."""
    head = "Permitted." if decision.permitted else "Refused."
    lines = [head]
    for given in decision.reasons:
        law = f", {given.legal_ref}" if given.legal_ref else ""
        lines.append(f"- {given.text} [{given.code}; rule {given.rule}{law}]")
    lines += [f"- Duty: {duty}" for duty in _duties(decision.obligations)]
    lines.append(f"Policy version {decision.version[:12]}.")
    return "\n".join(lines)


def obligations_to_json(obligations: Obligations) -> dict[str, object]:
    """Duties as plain values, for logs and the wire."""
    return {"mask": dict(obligations.mask), "min_k": obligations.min_k, "cap": dict(obligations.cap)}


def _duties(obligations: Obligations) -> list[str]:
    masked = [f"{name} as {mask}" for name, mask in obligations.mask.items() if mask != "keep"]
    duties = [f"mask {', '.join(masked)}."] if masked else []
    duties += [f"show {name} as at most {cap:g}." for name, cap in obligations.cap.items()]
    if obligations.min_k is not None:
        duties.append(f"show no count under {obligations.min_k} people.")
    return duties
