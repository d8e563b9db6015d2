"""The plot of an empirical audit: what was measured beside what is claimed."""

from matplotlib.figure import Figure

from federation.plots.svg import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, RED, new_figure, styled
from federation.training.audit.findings import Audit

LOOKS = {"any_mechanism": (BLUE, "o"), "gaussian_curve": (ORANGE, "s"), "gaussian_noise": (GREEN, "D")}
NAMES = {"any_mechanism": "any mechanism", "gaussian_curve": "Gaussian curve", "gaussian_noise": "Gaussian noise"}


@styled
def draw_audit(audit: Audit) -> Figure:
    """A row for each finding: its lower bounds on epsilon, and the claim, which they must not pass."""
    findings = audit.findings[::-1]
    figure, (axes,) = new_figure(height=1.5 + 0.62 * len(findings))
    for place, finding in enumerate(findings):
        colour = MUTED if finding.holds else RED
        axes.plot([0, finding.best.epsilon], [place, place], color=colour, linewidth=5, alpha=0.35)
        axes.plot([finding.claimed] * 2, [place - 0.32, place + 0.32], color=INK, linewidth=2)
        for bound in finding.bounds:
            look, marker = LOOKS[bound.name]
            axes.plot([bound.epsilon], [place], marker=marker, color=look, markersize=6, linestyle="none")
    for name, (look, marker) in LOOKS.items():
        axes.plot([], [], marker=marker, color=look, linestyle="none", label=NAMES[name])
    axes.plot([], [], color=INK, linewidth=2, label="claimed")
    labels = [f"{finding.canaries}, {finding.unit}\n{finding.view}" for finding in findings]
    axes.set_yticks(range(len(findings)), labels, fontsize=9)
    axes.set_ylim(-0.6, len(findings) - 0.4)
    axes.set_xlim(0, 1.08 * max(max(f.claimed, f.best.epsilon) for f in findings))
    axes.set_xlabel(f"epsilon at delta {audit.claim.delta:g}: at least ({audit.confidence:.0%} confidence)")
    axes.xaxis.grid(visible=True, color=FAINT)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure
