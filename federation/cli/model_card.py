"""A model card in the terminal, short: what it is, what it cost, how good it is, for whom."""

from collections.abc import Mapping, Sequence
from typing import Any

from federation.cli.console import moment, out, table

BARS = "▁▂▃▄▅▆▇█"
ABOUT = ("model", "purpose", "partners", "label", "features", "trust", "trained_at", "policy_version")
PRIVACY = ("epsilon_per_person", "epsilon_per_customer", "delta", "collusion", "rounds", "attempts", "noise_multiplier")


def print_card(card: Mapping[str, Any], version: int = 0) -> None:
    """Prints what a reader wants first; the whole card is in the saved file and in --json."""
    name = f"Model of run {card['run_id']}" + (f", version {version}" if version else "")
    shown = table(name, "what", "value")
    for key in ABOUT:
        value = card[key]
        said = ", ".join(value) if isinstance(value, list) else str(value)
        shown.add_row(key.replace("_", " "), said[:16] if key == "policy_version" else moment(said))
    for key in PRIVACY:
        shown.add_row(key.replace("_", " "), f"{card[key]:g}")
    if card.get("rows"):
        shown.add_row("rows, noisy", "{:,} ({:,} to {:,})".format(*card["rows"]))
    out.print(shown)
    metrics, judged = card.get("metrics"), card.get("judged")
    if metrics:
        _print_metrics(metrics, card.get("loss_by_round") or ())
    else:
        out.print("No public evaluation set: the gateway's operator may name one.")
    if metrics or judged:
        _print_groups(metrics or {}, judged or {})
    out.print("Limits: " + " ".join(card["limits"]), style="dim")


def spark(values: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """Values as a row of bars."""
    least, most = min(values) if low is None else low, max(values) if high is None else high
    span = (most - least) or 1.0
    return "".join(BARS[min(len(BARS) - 1, max(0, int((v - least) / span * len(BARS))))] for v in values)


def _print_metrics(metrics: Mapping[str, Any], losses: Sequence[Sequence[float]]) -> None:
    """Measures on the public set, each with a small picture."""
    shown = table(f"On the public set: {metrics['rows']:,} rows, {metrics['positives']:,} takers", "what", "", "value")
    roc = [rate for _, rate in metrics["roc"]][::5]
    shown.add_row("ROC", spark(roc, 0, 1), "AUC " + _between([metrics["auc"], *metrics["auc_interval"]]))
    lift = metrics["lift"]
    shown.add_row("lift by tenth", spark(lift, 0), f"best tenth {lift[0]:.2f}, best three tenths {lift[2]:.2f}")
    promised, found = ([bar[place] for bar in metrics["calibration"]] for place in (0, 1))
    top = max(*promised, *found)
    shown.add_row("calibration", spark(promised, 0, top), "promised, best tenth first")
    shown.add_row("", spark(found, 0, top), f"found; best tenth {promised[0]:.3f} promised, {found[0]:.3f} found")
    if losses:
        values = [loss for _, loss in losses]
        step = max(1, len(values) // 40)
        shown.add_row("loss by round", spark(values[::step]), f"{values[0]:.4f} to {values[-1]:.4f}")
    shown.add_row("log loss", "", _between([metrics["log_loss"], *metrics["log_loss_interval"]]))
    out.print(shown)


def _print_groups(metrics: Mapping[str, Any], judged: Mapping[str, Any]) -> None:
    """How groups fare, on the public set and on the partners' own rows."""
    title = "By group, 95 % intervals; own rows are measured with noise, under the same epsilon"
    shown = table(title, "group", "AUC, public", "AUC, own rows", "takers, own rows", "found / promised, own rows")
    whole = judged.get("everyone", {})
    public = [metrics["auc"], *metrics["auc_interval"]] if metrics else None
    shown.add_row("everyone", _between(public), *_own(whole))
    for column in dict.fromkeys([*judged.get("by", {}), *metrics.get("by", {})]):
        theirs = {part["group"]: part for part in metrics.get("by", {}).get(column, ())}
        ours = {part["group"]: part for part in judged.get("by", {}).get(column, ())}
        for group in dict.fromkeys([*ours, *theirs]):
            of_public = theirs.get(group, {})
            said = "too few" if of_public.get("too_few") else _between(of_public.get("auc"))
            shown.add_row(f"{column}: {group}", said, *_own(ours.get(group, {})))
    out.print(shown)


def _own(part: Mapping[str, Any]) -> tuple[str, str, str]:
    """AUC, share of takers and calibration of a group on the partners' own rows."""
    if part.get("too_few"):
        return "too few for the noise", "", ""
    return tuple(_between(part.get(name)) for name in ("auc", "positive_rate", "calibration_ratio"))  # type: ignore[return-value]


def _between(estimate: Sequence[float] | None) -> str:
    """Value, low and high in words."""
    return "-" if not estimate else f"{estimate[0]:.3f} ({estimate[1]:.3f} to {estimate[2]:.3f})"
