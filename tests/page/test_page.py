"""The live page in a real browser."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from page.directory import OFF, ago, led, terms, unled

pytestmark = pytest.mark.timeout(120)

NAMES = "[...document.querySelectorAll('tbody tr:not([hidden]) td.name')].map(c => c.innerText)"
MANY = 1000
log = logging.getLogger(__name__)


def cell(name, column):
    """Return an expression for the text of a cell."""
    return (
        f"document.querySelector('#elections tbody').children.length && [...elections.values()]"
        f".find(r => r.election.name === '{name}')?.cells.{column}.innerText"
    )


def chosen(element, value):
    """Return a script that fills a field as a person does."""
    return (
        f"$('{element}').value = '{value}';"
        f"$('{element}').dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


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


async def test_elections_are_shown_and_follow_what_changes(browser, url, three):
    """Who leads, and why nobody does; a change is there at once, a deleted election is not."""
    async with browser.open(url) as tab:
        await tab.until(f"({NAMES}).length === 3")
        leader = three.election("shop", "billing")["leader"]["podName"]
        assert await tab.run(cell("billing", "leader")) == leader
        assert await tab.run(cell("billing", "token")) == "4,711"
        assert await tab.run(cell("billing", "candidates")) == "3 of 3"
        assert await tab.run(cell("mailer", "state")) == "No candidates"
        assert await tab.run(cell("mailer", "leader")) == "nobody"
        assert "3 elections · 2 led here · 1 without" in await tab.run("$('summary').innerText")

        three.put("mailer", **led("shop", "mailer", token=1000))
        await tab.until(f"{cell('mailer', 'state')} === 'Leading'")
        three.put("newcomer")
        await tab.until(f"({NAMES}).includes('newcomer')")
        while "shop/newcomer" not in three.asked:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)  # or it would be asked for when it is gone
        three.remove("newcomer")
        await tab.until(f"!({NAMES}).includes('newcomer')")
        assert tab.complaints == []
        assert {request.split("/")[2] for request in tab.requests} == {url.split("/")[2]}


async def test_lease_counts_down_and_is_renewed(browser, url, three):
    """The time that is left falls by itself, and jumps up with a renewal."""
    three.left = 8.0
    async with browser.open(url) as tab:
        left = f"parseFloat({cell('billing', 'lease')})"
        await tab.until(f"{left} > 0 && {left} < 7.5")
        three.left = 20.0
        await tab.until(f"{left} > 15")


async def test_timeline_shows_handovers_gaps_and_unseen_ends(browser, url, three):
    """Each looks different, has a text of its own, and the whole a summary."""
    async with browser.open(url) as tab:
        row = "[...elections.values()].find(r => r.election.name === 'billing')"
        await tab.until(f"{row}?.svg.querySelectorAll('rect.term').length === 4")
        count = f"(selector) => {row}.svg.querySelectorAll(selector).length"
        assert await tab.run(f"({count})('path.handover')") == 1
        assert await tab.run(f"({count})('rect.gap')") == 1
        assert await tab.run(f"({count})('.unseen-end')") == 1
        titles = await tab.run(f"[...{row}.svg.querySelectorAll('title')].map(t => t.textContent)")
        assert any("billing-b" in title and "expired" in title for title in titles)
        assert any(title.startswith("nobody led for 2 min after") for title in titles)
        label = await tab.run(f"{row}.svg.getAttribute('aria-label')")
        assert label == "4 terms, 1 handed over, 2 gaps of 2 min in the last 1 hour"
        await tab.run(chosen("window", "900"))
        await tab.until(f"({count})('rect.term') === 2")


async def test_timeline_shows_when_a_pod_had_the_label(browser, url, elections):
    """An outage that no term shows is hatched, and so is the wait after it."""
    elections.put("billing", token=71)
    old, new = terms(("billing-a", 3000, 1000, "expired"), ("billing-b", 999, None, None))[::-1]
    old["led"] = [
        {"from": ago(2990), "to": ago(2000), "exact": True},
        {"from": ago(1900), "to": ago(1060), "exact": True},
    ]
    new["led"] = [{"from": ago(970), "to": None, "exact": True}]
    elections.terms_of["shop/billing"] = [new, old]
    async with browser.open(url) as tab:
        row = "[...elections.values()].find(r => r.election.name === 'billing')"
        await tab.until(f"{row}?.svg.querySelectorAll('rect.term').length === 3")
        gaps = f"[...{row}.svg.querySelectorAll('rect.gap title')].map(t => t.textContent)"
        inside, after = await tab.run(gaps)
        assert inside.startswith("nobody led for 2 min: 042e7842/shop/billing-a held the key")
        assert after == "nobody led for 90 s after the term before was expired"
        assert await tab.run(f"{row}.svg.querySelectorAll('rect.held').length") == 2
        await tab.run("elections.get('shop/billing').button.click()")
        await tab.until("document.querySelectorAll('.details tbody tr').length === 2")
        led = "[...document.querySelectorAll('.details tbody tr')].map(r => r.cells[3].innerText)"
        assert await tab.run(led) == ["16 min", "31 min"]
        elections.terms_of["shop/billing"] = [new | {"led": None}, old]
        elections.put("billing", **unled("Vacant", "a candidate waits", token=71))
        await tab.until(f"{row}.svg.querySelectorAll('rect.term').length === 2")
        assert await tab.run(f"({gaps}).length") == 2


async def test_new_term_comes_into_the_timeline(browser, url, three):
    """The history is asked again when the leader changes."""
    async with browser.open(url) as tab:
        row = "[...elections.values()].find(r => r.election.name === 'reports')"
        await tab.until(f"{row}?.asked")
        three.terms_of["back/reports"] = terms(("r-1", 60, None, None), namespace="back")
        three.put("reports", namespace="back", token=88124, holder="042e7842/back/r-1")
        await tab.until(f"{row}.svg.querySelectorAll('rect.term').length === 1")


async def test_without_history_what_was_seen_is_shown_and_said(browser, url, three):
    """From the opening of the page on."""
    three.problem = OFF
    async with browser.open(url) as tab:
        await tab.until("!$('notice').hidden")
        assert "Showing terms since you opened this page" in await tab.run("$('notice').innerText")
        three.put("billing", token=4800, holder="042e7842/shop/billing-z")
        row = "[...elections.values()].find(r => r.election.name === 'billing')"
        await tab.until(f"{row}.svg.querySelectorAll('rect.term').length === 2")
        three.put("billing", **unled("Vacant", "no pod leads"))
        await tab.until(f"{row}.terms[0].to")


async def test_filters_and_order(browser, url, three):
    """By text, namespace and state; a column's button sorts, and sorts the other way."""
    async with browser.open(url) as tab:
        await tab.until(f"({NAMES}).length === 3")
        assert await tab.run(NAMES) == ["reports", "billing", "mailer"]
        await tab.run(chosen("text", "BILL node-a"))
        assert await tab.run(NAMES) == ["billing"]
        await tab.run(chosen("text", "no such"))
        assert await tab.run("$('empty').innerText") == "No election matches the filters."
        await tab.run(chosen("text", ""))
        await tab.run(chosen("namespace", "back"))
        assert await tab.run(NAMES) == ["reports"]
        await tab.run(chosen("namespace", ""))
        await tab.run(chosen("state", "nobody"))
        assert await tab.run(NAMES) == ["mailer"]
        await tab.run(chosen("state", ""))
        for direction, expected in (
            ("ascending", ["mailer", "billing", "reports"]),
            ("descending", ["reports", "billing", "mailer"]),
        ):
            await tab.run("document.querySelector('th.token button').click()")
            assert await tab.run(NAMES) == expected
            sorted_ = await tab.run("document.querySelector('th.token').getAttribute('aria-sort')")
            assert sorted_ == direction


async def test_keyboard_alone_is_enough(browser, url, three):
    """Filter, sort, and open an election's details, and the focus stays where it was."""
    async with browser.open(url) as tab:
        await tab.until(f"({NAMES}).length === 3")
        focus = "document.activeElement.id || document.activeElement.innerText"
        await tab.press("Tab")
        assert await tab.run(focus) == "Skip to the elections"
        await tab.press("/", "m", "a", "i")
        assert await tab.run(focus) == "text"
        assert await tab.run(NAMES) == ["mailer"]
        await tab.press("Escape")
        assert len(await tab.run(NAMES)) == 3
        for _ in range(20):
            await tab.press("Tab")
            if await tab.run(focus) == "reports":
                break
        await tab.press("Enter")
        await tab.until("document.querySelector('tr.details h2')")
        assert await tab.run("document.activeElement.getAttribute('aria-expanded')") == "true"
        outline = await tab.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        three.put("aaa", namespace="aaa")
        await tab.until(f"({NAMES}).length === 4")
        assert await tab.run(focus) == "reports"
        await tab.press("Enter")
        assert await tab.run("document.querySelector('tr.details')") is None


async def test_everything_has_a_name_for_who_cannot_see_it(browser, url, three):
    """Controls, table, columns, timelines and the connection, also as cards on a narrow screen."""
    for width in (1360, 400):
        async with browser.open(url, width=width) as tab:
            await tab.until("document.querySelectorAll('rect.term').length > 3")
            names = await tab.names()
            nameless = [
                role
                for role, name in names
                if not name and role in {"button", "combobox", "searchbox", "image", "link"}
            ]
            assert nameless == []
            assert ("searchbox", "Filter") in names
            assert ("combobox", "Namespace") in names
            assert ("table", "Elections that this operator serves") in names
            assert ("button", "billing") in names
            assert any(role == "image" and name.startswith("4 terms") for role, name in names)
            assert ("status", "") in names
            assert "Live" in [name for role, name in names if role == "StaticText"]


async def test_details_say_why(browser, url, three):
    """All conditions with their messages, and the terms."""
    async with browser.open(url) as tab:
        await tab.until(f"({NAMES}).length === 3")
        await tab.run("elections.get('shop/billing').button.click()")
        await tab.until("document.querySelectorAll('.details tbody tr').length === 4")
        shown = await tab.run("document.querySelector('.details').innerText")
        assert "records live 30 s" in shown
        assert "handed over" in shown
        assert "not seen" in shown


async def test_lost_connection_is_shown_and_made_anew(browser, serve, three):
    """What was known stays, and says that it is old; then it goes on by itself."""
    first = await serve()
    address = first.addresses[0]
    async with browser.open(f"http://{address}/") as tab:
        await tab.until("$('connection').innerText === 'Live'")
        await first.aclose()
        await tab.until("$('connection').innerText === 'Not connected'")
        assert len(await tab.run(NAMES)) == 3
        await tab.until(f"{cell('billing', 'lease')} === '–'")
        three.remove("mailer")
        await serve(address)
        await tab.until("$('connection').innerText === 'Live'", timeout=40)
        await tab.until(f"({NAMES}).length === 2")


async def test_names_are_text_whatever_they_contain(browser, url, elections):
    """A stranger's identity, or a message, is never HTML, and no script of it runs."""
    evil = "<img src=x onerror=alert(1)><b>bold</b>"
    elections.put("billing", **unled("LedElsewhere", evil, status="True", holder=evil, site=evil))
    elections.terms_of["shop/billing"] = terms((evil, 900, None, None))
    async with browser.open(url) as tab:
        await tab.until(f"{cell('billing', 'leader')} === {evil!r}")
        await tab.run("elections.get('shop/billing').button.click()")
        await tab.until("document.querySelector('.details td.holder')")
        assert await tab.run("document.querySelector('tbody b, tbody img') === null") is False
        assert await tab.run("document.querySelector('tbody img')") is None
        assert tab.complaints == []


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
@pytest.mark.parametrize("width", (1360, 1000, 400))
async def test_fits_and_can_be_read(browser, url, three, width, dark):
    """Nothing sticks out of the window, and text is readable on its background (WCAG AA)."""
    async with browser.open(url, width=width, dark=dark) as tab:
        await tab.until("document.querySelectorAll('rect.term').length > 3")
        await tab.run("elections.get('shop/billing').button.click()")
        await tab.until("document.querySelectorAll('.details tbody tr').length === 4")
        assert (await tab.screenshot()).startswith(b"\x89PNG")
        wide = await tab.run("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        assert await tab.run(CONTRASTS) == []


CONTRASTS = """(() => {
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
})()"""


async def test_a_thousand_elections_are_no_burden(browser, url, elections):
    """They are there in seconds; only those in sight are drawn and ask for their history."""
    for number in range(MANY):
        namespace, name = f"team-{number % 20:02}", f"service-{number:04}"
        elections.stored[namespace, name] = led(namespace, name, token=number)
        elections.terms_of[f"{namespace}/{name}"] = terms(
            *((f"{name}-{i}", 3000 - 100 * i, 2900 - 100 * i, "handed over") for i in range(20)),
            namespace=namespace,
        )
    async with browser.open(url) as tab:
        began = time.monotonic()
        await tab.until(f"({NAMES}).length === {MANY}", timeout=60)
        await tab.until("document.querySelectorAll('rect.term').length > 100", timeout=60)
        first = await tab.run("performance.getEntriesByName('take all')[0].duration")
        elapsed = time.monotonic() - began
        elections.put("service-0000", namespace="team-00", token=5000)
        await tab.until("performance.getEntriesByName('take some').length > 3")
        later = await tab.run(
            "Math.max(...performance.getEntriesByName('take some').map(e => e.duration))"
        )
        log.info("all rows %.0f ms of script, %.1f s; a change %.0f ms", first, elapsed, later)
        assert len(set(elections.asked)) < 100
        assert elapsed < 30
        await tab.run(chosen("text", "service-0999"))
        assert await tab.run(NAMES) == ["service-0999"]


async def test_history_of_what_comes_into_sight_is_asked_for(browser, url, elections):
    """By scrolling to it."""
    for number in range(100):
        elections.stored["shop", f"s-{number:02}"] = led("shop", f"s-{number:02}")
    async with browser.open(url) as tab:
        await tab.until("elections.get('shop/s-00')?.asked")
        assert "shop/s-99" not in elections.asked
        await tab.run("elections.get('shop/s-99').element.scrollIntoView()")
        await tab.until("elections.get('shop/s-99').asked")
