"""The report is one page that shows what the record says, escapes it, and needs nothing from elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from federation.core.errors import DataError, Reason
from federation.plots.values import Count, CrossCell, CrossTable, Noise, Region
from gateway.demo.record import (
    Audit,
    Budget,
    Entry,
    Link,
    Links,
    OfferExample,
    OfferField,
    Offers,
    Partner,
    Process,
    Ratio,
    ReasonCount,
    Scope,
    Step,
    Story,
    Training,
    Venn,
    Withdrawal,
)
from gateway.demo.report import render
from gateway.demo.yardsticks import Curve, Yardsticks, judge

HOSTILE = "<script>alert('$x$')</script>&\"#010203"
VOID = {"meta", "br", "link", "img", "input", "hr"}


MEASURES = {
    "metrics": {
        "rows": 900,
        "positives": 100,
        "auc": 0.74,
        "auc_interval": [0.7, 0.78],
        "roc": [[0.0, 0.0], [0.4, 0.8], [1.0, 1.0]],
        "lift": [3.0, 2.0, 1.0],
        "calibration": [[0.3, 0.28, 0.2, 0.36], [0.1, 0.11, 0.08, 0.15]],
        "by": {"age": [{"group": "below 30", "auc": [0.7, 0.6, 0.8]}]},
    },
    "judged": {
        "everyone": {"auc": [0.73, 0.7, 0.76], "calibration": [[0.3, 0.27, 0.2, 0.34]]},
        "by": {"region": [{"group": "EEA", "auc": [0.72, 0.68, 0.77]}, {"group": "SG", "too_few": True}]},
    },
    "loss_by_round": [[1, 0.41], [2, 0.36], [3, 0.34]],
}


def make_curve(name: str, rows: int, separation: float) -> Curve:
    rng = np.random.default_rng(len(name))
    labels = (np.arange(6_000) < 740).astype(np.int64)
    return judge(name, rng.normal(0, 1, 6_000) + separation * labels, labels, rows=rows)


def make_count(count: int, reach: int = 14) -> Count:
    return Count(count, count - reach, count + reach)


def make_story() -> Story:
    """Invented values of a plausible size."""
    regions = {
        "bank": 3572,
        "insurer": 1478,
        "airline": 812,
        "bank insurer": 779,
        "bank airline": 678,
        "insurer airline": 408,
        "bank insurer airline": 174,
    }
    shares = ((118, 22, 0), (241, 35, 24), (301, 52, 29), (402, 66, 41))
    tiers, activities = ("basic", "potential", "high", "strategic"), ("silent", "occasional", "active")
    noise = Noise(0.5, 1e-6, 7.1, "discrete_gaussian", 20)
    consent = ReasonCount(
        "consent_withdrawn", "The customer withdrew the consent to share offers.", "GDPR Art. 7(3); PIPL Art. 15", 61
    )
    reasons = (
        ReasonCount("not_a_customer", "The person is not a customer of the recipient.", "", 1204),
        ReasonCount("consent_missing", "There is no live consent to share offers.", "GDPR Art. 6(1)(a)", 418),
        ReasonCount(
            "transfer_mechanism_missing", "No mechanism covers this transfer out of China.", "PIPL Art. 38", 203
        ),
        ReasonCount("already_held", "The person already has the product.", "", 96),
        consent,
        ReasonCount("cap_reached", "Two offers are already open for the person.", "", 17),
    )
    masked = (
        OfferField("channel", "app"),
        OfferField("score band", "top5"),
        OfferField("benefit", "Two lounge visits a year without a fee"),
        OfferField("value tier", "high or above", "generalised"),
        OfferField("valid until", "2026-12-01"),
    )
    refused = tuple(
        OfferExample(False, "bank", "insurer", "term_life", masked[:2], (replace(reason, offers=1),))
        for reason in reasons
    )
    yardsticks = Yardsticks(
        make_curve("pooled", 9_908, 1.02),
        (make_curve("bank", 5_055, 0.90), make_curve("insurer", 2_792, 0.95), make_curve("airline", 2_061, 0.93)),
        6_000,
        740,
    )
    return Story(
        alliance="Harbour Alliance",
        synthetic=True,
        data_note="Customers, identifiers and consents are invented; the arithmetic is real.",
        made_at="2026-11-01T09:30:00+00:00",
        partners=(
            Partner("bank", "Banco do Porto", "PT", 7216, 4943, 5055),
            Partner("insurer", "Hanse Versicherung", "DE", 4044, 2862, 2792),
            Partner("airline", "Lotus Air", "SG", 2907, 2072, 2061),
        ),
        policy_version="9f2c4be1" * 8,
        venn=Venn(
            "2026-11-01.1",
            "email",
            tuple(Region(tuple(name.split()), make_count(count)) for name, count in regions.items()),
            (
                Region(("bank",), make_count(5203, 28)),
                Region(("insurer",), make_count(2839, 28)),
                Region(("airline",), make_count(2072, 28)),
                Region(("bank", "insurer"), make_count(953, 20)),
                Region(("bank", "airline"), make_count(852, 20)),
                Region(("insurer", "airline"), make_count(582, 20)),
            ),
            noise,
        ),
        cross=CrossTable(
            "bank.value_tier",
            "airline.activity",
            tiers,
            activities,
            tuple(
                CrossCell(tier, activity, make_count(count) if count else Count(0, 0, 0, suppressed=True))
                for tier, row in zip(tiers, shares, strict=True)
                for activity, count in zip(activities, row, strict=True)
            ),
            noise,
        ),
        links=Links(
            (
                Link(
                    ("Gold card (bank)",), "Home insurance (insurer)", 98, Ratio(0.52, 0.31, 0.74), Ratio(1.9, 1.2, 3.1)
                ),
                Link(
                    ("Gold card (bank)", "Miles card (airline)"), "Home insurance (insurer)", 31,
                    Ratio(0.61, 0.30, 1.0), Ratio(2.2, 1.1, None),
                ),
            ),
            9, 0.95, noise,
        ),
        training=Training(
            "run-0001", "logistic_regression", 12, 8, 0.05, 0.5, 0.912, 1.98, 3.71, 1e-6,
            make_curve("joint", 9_908, 0.98), yardsticks, MEASURES,
        ),
        offers=Offers(
            2_480, 602, 1_878, reasons, (OfferExample(True, "bank", "airline", "lounge_pass", masked, ()), *refused)
        ),
        withdrawal=Withdrawal("bank", "offer_sharing", 214, 213, 1, "2026-11-01T09:31:12+00:00"),
        budget=Budget(
            "2026-10-01",
            "2027-01-01",
            1e-6,
            (Scope("alliance", 8.0, 4.31), Scope("overlap_statistics", 3.0, 0.74), Scope("model_training", 5.0, 3.71)),
            (
                Entry("2026-11-01T09:30:04+00:00", "overlap_statistics", "cube venn", 0.5, "committed"),
                Entry("2026-11-01T09:30:05+00:00", "overlap_statistics", "cube tier-by-activity", 0.5, "committed"),
                Entry("2026-11-01T09:30:09+00:00", "model_training", "run-0001, 12 rounds", 3.71, "committed"),
            ),
        ),
        audit=Audit(2_514, "c3" * 32, True, "Every entry is in the tree, and the checkpoint is signed."),
        steps=(Step("Enrol three partners", 1.2), Step("Overlap", 6.4), Step("Train", 11.8), Step("Offers", 4.1)),
        processes=(Process("gateway", 312), Process("bank", 641), Process("insurer", 588), Process("airline", 571)),
    )  # fmt: skip


class Checker(HTMLParser):
    """Collects what a page would load or run, its ids, and whether its elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links, self.handlers, self.ids, self.tags, self.open = [], [], [], [], []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "data", "action", "srcset", "poster"}:
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def story() -> Story:
    return make_story()


@pytest.fixture(scope="module")
def page(story: Story) -> str:
    return render(story)


def test_page_is_one_well_formed_document(page):
    found = Checker(page)
    assert page.startswith("<!doctype html>")
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert found.tags.count("h1") == 1
    assert found.tags.count("svg") == 9


def test_page_needs_nothing_from_elsewhere(page):
    found = Checker(page)
    assert "://" not in page
    assert "@import" not in page
    assert all(link.startswith("#") for link in found.links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert not {"script", "iframe", "object", "embed", "img", "link"} & set(found.tags)
    assert found.handlers == []


def test_references_inside_the_page_lead_somewhere(page):
    found = Checker(page)
    named = {link[1:] for link in found.links} | set(re.findall(r"url\(#([^)]*)\)", page))
    named |= {name for names in re.findall(r'aria-labelledby="([^"]*)"', page) for name in names.split()}
    assert named
    assert named <= set(found.ids)


def test_plots_follow_the_page_and_describe_themselves(page):
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    for svg in svgs:
        assert re.search(r"<title[^>]*>[^<]+</title><desc[^>]*>[^<]+</desc>", svg)
        colors = set(re.findall(r"#[0-9a-f]{6}\b", svg))
        assert not colors, "colours must come from the page's variables"
    style = page[page.index("<style>") : page.index("</style>")]
    assert set(re.findall(r"var\((--[a-z]+)\)", page)) <= set(re.findall(r"(--[a-z-]+):", style))


def test_page_says_what_the_record_says(page, story):
    text = " ".join(Checker(page).text.split())
    for region in story.venn.regions:
        assert f"{region.count.low:,} to {region.count.high:,}" in text
    assert "not shown" in text
    for said in ("0.5", "of 2,480", "PIPL Art. 38", "c3c3c3", "nobody in it exists", "2,514 entries"):
        assert said in text
    assert f"{story.training.joint.auc:.3f}" in text
    assert "Gold card (bank) and Miles card (airline)Home insurance (insurer)31" in text
    assert "1.90 (1.20 to 3.10)" in text
    assert "2.20 (above 1.10)" in text


def test_no_link_is_said_and_not_shown_as_an_empty_table(story):
    text = Checker(render(replace(story, links=replace(story.links, links=())))).text
    assert "0 of 9 rules have a lift" in text
    assert "Who holds" not in text


def test_hostile_text_stays_text(story):
    reason = ReasonCount(HOSTILE, HOSTILE, HOSTILE, 3)
    example = OfferExample(False, HOSTILE, HOSTILE, HOSTILE, (OfferField(HOSTILE, HOSTILE, HOSTILE),), (reason,))
    hostile = replace(
        story,
        alliance=HOSTILE,
        data_note=HOSTILE,
        made_at=HOSTILE,
        policy_version=HOSTILE,
        partners=tuple(replace(partner, display_name=HOSTILE) for partner in story.partners),
        cross=replace(story.cross, row_name=HOSTILE, column_name=HOSTILE),
        links=replace(story.links, links=(replace(story.links.links[0], left=(HOSTILE,), right=HOSTILE),)),
        training=replace(story.training, run_id=HOSTILE, model=HOSTILE),
        offers=replace(story.offers, reasons=(reason,), examples=(example,)),
        budget=replace(story.budget, scopes=(Scope(HOSTILE, 1.0, 0.5),), entries=()),
        audit=replace(story.audit, text=HOSTILE, root=HOSTILE),
        steps=(Step(HOSTILE, 1.0),),
    )
    page = render(hostile)
    found = Checker(page)
    assert "script" not in found.tags
    assert found.open == []
    assert "<script>alert('$x$')</script>" in found.text


def test_a_withheld_number_is_no_bound_on_the_true_one(story):
    regions = [replace(region, count=Count(0, 0, 0, suppressed=True)) for region in story.venn.regions]
    text = Checker(render(replace(story, venn=replace(story.venn, regions=tuple(regions))))).text
    assert text.count("noisy < 20") >= len(regions)
    assert "< 20" not in text.replace("noisy < 20", "")


def test_unfinished_record_renders():
    page = render(Story("Alliance", synthetic=False, data_note="", made_at="2026-11-01T00:00:00+00:00"))
    assert Checker(page).text.count("has not been done") == 9
    assert "<svg" not in page


def test_everything_suppressed_renders(story):
    hidden = Count(0, 0, 0, suppressed=True)
    venn = replace(story.venn, regions=tuple(replace(r, count=hidden) for r in story.venn.regions))
    cross = replace(story.cross, cells=tuple(replace(c, count=hidden) for c in story.cross.cells))
    assert "not shown" in render(replace(story, venn=venn, cross=cross))


def test_rendering_is_deterministic(page, story):
    assert render(story) == page


def test_record_survives_json(story):
    assert Story.from_json(story.to_json()) == story


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("not json", "demo record: the whole"),
        ('{"alliance": "x", "synthetic": true, "data_note": "", "made_at": "", "extra": 1}', "extra"),
        (
            '{"alliance": "x", "synthetic": true, "data_note": "", "made_at": "", "steps": [{"name": "a"}]}',
            "steps.0.seconds",
        ),
    ],
)
def test_record_refuses_what_it_did_not_write(text, item):
    with pytest.raises(DataError) as caught:
        Story.from_json(text)
    assert caught.value.reason is Reason.BAD_FIELD
    assert item in caught.value.item
