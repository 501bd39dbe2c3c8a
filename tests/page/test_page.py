"""The live page in a real browser."""

from __future__ import annotations

import asyncio
import logging
import re
import time

import pytest
from playwright.async_api import expect

from page.directory import OFF, ago, led, terms, unled
from waiting import until

pytestmark = pytest.mark.timeout(120)

MANY = 1000
NAMELESS = re.compile(r"^\s*- (?:button|combobox|searchbox|img|link)(?! \")", re.MULTILINE)
"""A line of an accessibility snapshot with a control or a picture that has no name."""
PARTS = re.compile(r'^( *)(- img ".*"):\n(?:\1 +- img.*\n?)+', re.MULTILINE)
"""A picture with a name and the pictures in it, which screen readers leave out."""
log = logging.getLogger(__name__)


def names(page):
    """Locate the names of the elections that are shown."""
    return page.locator("tbody tr:not([hidden]) td.name")


def row(page, name):
    """Locate the row of an election."""
    button = page.get_by_role("button", name=name, exact=True)
    return page.locator("#elections > tbody > tr:not(.details)").filter(has=button)


def cell(page, name, column):
    """Locate a cell of an election."""
    return row(page, name).locator(f"td.{column}")


def details(page, name):
    """Locate the button that opens and closes the details of an election."""
    return row(page, name).get_by_role("button")


def field(page, name):
    """Locate a field of the filters in which one of several values is selected."""
    return page.get_by_role("combobox", name=name)


@pytest.fixture
def three(elections):
    """Three elections with some history."""
    elections.put("billing", token=4711)
    elections.put("reports", namespace="back", token=88123)
    elections.put("mailer", **unled("NoCandidates", "no pod matches", token=991))
    elections.terms_of["shop/billing"] = terms(
        ("billing-a", 3000, 2400, "handed over"),
        ("billing-b", 2400, 1800, "expired"),
        ("billing-a", 1700, 900, "lost"),
        ("billing-c", 600, None, None),
    )
    elections.terms_of["shop/billing"][1]["to"] = None
    return elections


async def test_elections_are_shown_and_follow_what_changes(
    open_page, url, three, complaints, requests
):
    """Who leads, and why nobody does; a change is there at once, a deleted election is not."""
    page = await open_page(url)
    await expect(names(page)).to_have_count(3)
    leader = three.election("shop", "billing")["leader"]["podName"]
    await expect(cell(page, "billing", "leader")).to_have_text(leader)
    await expect(cell(page, "billing", "token")).to_have_text("4,711")
    await expect(cell(page, "billing", "candidates")).to_have_text("3 of 3")
    await expect(cell(page, "mailer", "state")).to_have_text("No candidates")
    await expect(cell(page, "mailer", "leader")).to_have_text("nobody")
    summary = "3 elections · 2 led here · 1 without"
    await expect(page.locator("#summary")).to_contain_text(summary)

    three.put("mailer", **led("shop", "mailer", token=1000))
    await expect(cell(page, "mailer", "state")).to_have_text("Leading")
    three.put("newcomer")
    await expect(row(page, "newcomer")).to_be_visible()
    await until(lambda: "shop/newcomer" in three.asked)  # or it would be asked for when it is gone
    three.remove("newcomer")
    await expect(row(page, "newcomer")).to_have_count(0)
    assert complaints == []
    assert {request.split("/")[2] for request in requests} == {url.split("/")[2]}


async def test_lease_counts_down_and_is_renewed(open_page, url, three):
    """The time that is left falls by itself, and jumps up with a renewal."""
    three.left = 8.0
    page = await open_page(url)
    lease = cell(page, "billing", "lease")
    await expect(lease).to_have_text(re.compile(r"^(?!0\.0)([0-6]\.\d|7\.[0-4]) s$"))
    three.left = 20.0
    await expect(lease).to_have_text(re.compile(r"^(1[6-9]|20) s$"))


async def test_timeline_shows_handovers_gaps_and_unseen_ends(open_page, url, three):
    """Each looks different, has a text of its own, and the whole a summary."""
    page = await open_page(url)
    line = cell(page, "billing", "timeline")
    await expect(line.locator("rect.term")).to_have_count(4)
    await expect(line.locator("path.handover")).to_have_count(1)
    await expect(line.locator("rect.gap")).to_have_count(1)
    await expect(line.locator(".unseen-end")).to_have_count(1)
    titles = await line.locator("title").all_text_contents()
    assert any("billing-b" in title and "expired" in title for title in titles)
    assert any(title.startswith("nobody led for 2 min after") for title in titles)
    summary = "4 terms, 1 handed over, 2 gaps of 2 min in the last 1 hour"
    await expect(line.locator("svg.line")).to_have_accessible_name(summary)
    await field(page, "Timeline").select_option("15 minutes")
    await expect(line.locator("rect.term")).to_have_count(2)


async def test_timeline_shows_when_a_pod_had_the_label(open_page, url, elections):
    """An outage that no term shows is hatched, and so is the wait after it."""
    elections.put("billing", token=71)
    old, new = terms(("billing-a", 3000, 1000, "expired"), ("billing-b", 999, None, None))[::-1]
    old["led"] = [
        {"from": ago(2990), "to": ago(2000), "exact": True},
        {"from": ago(1900), "to": ago(1060), "exact": True},
    ]
    new["led"] = [{"from": ago(970), "to": None, "exact": True}]
    elections.terms_of["shop/billing"] = [new, old]
    page = await open_page(url)
    line = cell(page, "billing", "timeline")
    await expect(line.locator("rect.term")).to_have_count(3)
    inside, after = await line.locator("rect.gap title").all_text_contents()
    assert inside.startswith("nobody led for 2 min: 042e7842/shop/billing-a held the key")
    assert after == "nobody led for 90 s after the term before was expired"
    await expect(line.locator("rect.held")).to_have_count(2)
    await details(page, "billing").click()
    led_for = page.locator(".details tbody td:nth-child(4)")
    await expect(led_for).to_have_text(["16 min", "31 min"])
    elections.terms_of["shop/billing"] = [new | {"led": None}, old]
    elections.put("billing", **unled("Vacant", "a candidate waits", token=71))
    await expect(line.locator("rect.term")).to_have_count(2)
    await expect(line.locator("rect.gap")).to_have_count(2)


async def test_new_term_comes_into_the_timeline(open_page, url, three):
    """The history is asked again when the leader changes."""
    page = await open_page(url)
    await until(lambda: "back/reports" in three.asked)
    three.terms_of["back/reports"] = terms(("r-1", 60, None, None), namespace="back")
    three.put("reports", namespace="back", token=88124, holder="042e7842/back/r-1")
    await expect(cell(page, "reports", "timeline").locator("rect.term")).to_have_count(1)


async def test_without_history_what_was_seen_is_shown_and_said(open_page, url, three):
    """From the opening of the page on."""
    three.problem = OFF
    page = await open_page(url)
    await expect(page.get_by_role("note")).to_contain_text(
        "Showing terms since you opened this page"
    )
    three.put("billing", token=4800, holder="042e7842/shop/billing-z")
    line = cell(page, "billing", "timeline")
    await expect(line.locator("rect.term")).to_have_count(2)
    three.put("billing", **unled("Vacant", "no pod leads"))
    await expect(line.locator("rect.gap")).to_have_count(1)


async def test_filters_and_order(open_page, url, three):
    """By text, namespace and state; a column's button sorts, and sorts the other way."""
    page = await open_page(url)
    text = page.get_by_role("searchbox", name="Filter")
    await expect(names(page)).to_have_text(["reports", "billing", "mailer"])
    await text.fill("BILL node-a")
    await expect(names(page)).to_have_text(["billing"])
    await text.fill("no such")
    await expect(page.locator("#empty")).to_have_text("No election matches the filters.")
    await text.fill("")
    await field(page, "Namespace").select_option("back")
    await expect(names(page)).to_have_text(["reports"])
    await field(page, "Namespace").select_option("all")
    await field(page, "State").select_option("nobody leads")
    await expect(names(page)).to_have_text(["mailer"])
    await field(page, "State").select_option("all")
    token = page.get_by_role("columnheader", name="Token")
    for direction, expected in (
        ("ascending", ["mailer", "billing", "reports"]),
        ("descending", ["reports", "billing", "mailer"]),
    ):
        await token.get_by_role("button").click()
        await expect(names(page)).to_have_text(expected)
        await expect(token).to_have_attribute("aria-sort", direction)


async def test_keyboard_alone_is_enough(open_page, url, three):
    """Filter, sort, and open an election's details, and the focus stays where it was."""
    page = await open_page(url)
    await expect(names(page)).to_have_count(3)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the elections")).to_be_focused()
    for key in ("/", "m", "a", "i"):
        await page.keyboard.press(key)
    await expect(page.get_by_role("searchbox", name="Filter")).to_be_focused()
    await expect(names(page)).to_have_text(["mailer"])
    await page.keyboard.press("Escape")
    await expect(names(page)).to_have_count(3)
    button = details(page, "reports")
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await button.evaluate("element => element === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(page.locator("tr.details").get_by_role("heading", name="Now")).to_be_visible()
    await expect(button).to_be_focused()
    await expect(button).to_have_attribute("aria-expanded", "true")
    await expect(button).to_have_css("outline-style", "solid")
    three.put("aaa", namespace="aaa")
    await expect(names(page)).to_have_count(4)
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("tr.details")).to_have_count(0)


@pytest.mark.parametrize("width", (1360, 400))
async def test_everything_has_a_name_for_who_cannot_see_it(open_page, url, three, width):
    """Controls, table, columns, timelines and the connection, also as cards on a narrow screen."""
    page = await open_page(url, width=width)
    await expect(page.locator("rect.term")).not_to_have_count(0)
    await expect(cell(page, "billing", "timeline").locator("rect.term")).to_have_count(4)
    await expect(page.locator("body")).to_match_aria_snapshot("""
        - banner:
          - status: Live
        - main:
          - search "Filters":
            - searchbox "Filter"
            - combobox "Namespace"
          - table "Elections that this operator serves":
            - rowgroup:
              - row:
                - cell "billing":
                  - button "billing"
                - cell /4 terms/:
                  - img /^4 terms/
    """)
    snapshot = await page.locator("body").aria_snapshot()
    assert NAMELESS.findall(PARTS.sub(r"\1\2\n", snapshot)) == []


async def test_details_say_why(open_page, url, three):
    """All conditions with their messages, and the terms."""
    page = await open_page(url)
    await details(page, "billing").click()
    shown = page.locator(".details")
    await expect(shown.locator("tbody tr")).to_have_count(4)
    for text in ("records live 30 s", "handed over", "not seen"):
        await expect(shown).to_contain_text(text, use_inner_text=True)


async def test_lost_connection_is_shown_and_made_anew(open_page, serve, three):
    """What was known stays, and says that it is old; then it goes on by itself."""
    first = await serve()
    address = first.addresses[0]
    page = await open_page(f"http://{address}/")
    connection = page.get_by_role("status")
    await expect(connection).to_have_text("Live")
    await first.aclose()
    await expect(connection).to_have_text("Not connected")
    await expect(names(page)).to_have_count(3)
    await expect(cell(page, "billing", "lease")).to_have_text("–")
    three.remove("mailer")
    await serve(address)
    await expect(connection).to_have_text("Live", timeout=40_000)
    await expect(names(page)).to_have_count(2)


async def test_names_are_text_whatever_they_contain(open_page, url, elections, complaints):
    """A stranger's identity, or a message, is never HTML, and no script of it runs."""
    evil = "<img src=x onerror=alert(1)><b>bold</b>"
    elections.put("billing", **unled("LedElsewhere", evil, status="True", holder=evil, site=evil))
    elections.terms_of["shop/billing"] = terms((evil, 900, None, None))
    page = await open_page(url)
    await expect(cell(page, "billing", "leader")).to_have_text(evil)
    await details(page, "billing").click()
    await expect(page.locator(".details td.holder")).to_contain_text(evil)
    await expect(page.locator("tbody b").filter(has_text=re.compile("^Ready$"))).to_have_count(1)
    await expect(page.locator("tbody b").filter(has_text="bold")).to_have_count(0)
    await expect(page.locator("tbody img")).to_have_count(0)
    assert complaints == []


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
@pytest.mark.parametrize("width", (1360, 1000, 400))
async def test_fits_and_can_be_read(open_page, url, three, width, dark):
    """Nothing sticks out of the window, and text is readable on its background (WCAG AA)."""
    page = await open_page(url, width=width, dark=dark)
    await expect(cell(page, "billing", "timeline").locator("rect.term")).to_have_count(4)
    await details(page, "billing").click()
    await expect(page.locator(".details tbody tr")).to_have_count(4)
    assert (await page.screenshot()).startswith(b"\x89PNG")
    assert await page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert await page.evaluate(CONTRASTS) == []


CONTRASTS = """() => {
  const rgba = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    return parts.length > 3 ? parts : [...parts, 1];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *:not(svg *):not(option):not(noscript)")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const ink = light(rgba(getComputedStyle(element).color));
    const [high, low] = [ink, light(paper(element))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) poor.push(`${element.innerText}: ${contrast.toFixed(2)}`);
  }
  return poor;
}"""


async def test_a_thousand_elections_are_no_burden(open_page, url, elections):
    """They are there in seconds; only those in sight are drawn and ask for their history."""
    for number in range(MANY):
        namespace, name = f"team-{number % 20:02}", f"service-{number:04}"
        elections.stored[namespace, name] = led(namespace, name, token=number)
        elections.terms_of[f"{namespace}/{name}"] = terms(
            *((f"{name}-{i}", 3000 - 100 * i, 2900 - 100 * i, "handed over") for i in range(20)),
            namespace=namespace,
        )
    began = time.monotonic()
    page = await open_page(url)
    await expect(names(page)).to_have_count(MANY)
    await expect(page.locator("rect.term").nth(100)).to_be_attached()
    elapsed = time.monotonic() - began
    durations = "name => performance.getEntriesByName(name).map(entry => entry.duration)"
    first = (await page.evaluate(durations, "take all"))[0]
    elections.put("service-0000", namespace="team-00", token=5000)
    while len(later := await page.evaluate(durations, "take some")) <= 3:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    log.info("all rows %.0f ms of script, %.1f s; a change %.0f ms", first, elapsed, max(later))
    assert len(set(elections.asked)) < 100
    assert elapsed < 30
    await page.get_by_role("searchbox", name="Filter").fill("service-0999")
    await expect(names(page)).to_have_text(["service-0999"])


async def test_history_of_what_comes_into_sight_is_asked_for(open_page, url, elections):
    """By scrolling to it."""
    for number in range(100):
        elections.stored["shop", f"s-{number:02}"] = led("shop", f"s-{number:02}")
    page = await open_page(url)
    await until(lambda: "shop/s-00" in elections.asked)
    assert "shop/s-99" not in elections.asked
    await row(page, "s-99").scroll_into_view_if_needed()
    await until(lambda: "shop/s-99" in elections.asked)
