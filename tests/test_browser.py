"""The built pages in a headless Chromium: what only shows where a page is drawn.

`make test-browser` runs this after `make book`; elsewhere it is skipped, for it
takes minutes and needs a browser.  Every page is loaded once in each theme, from its file, then
resized; axe-core (https://github.com/dequelabs/axe-core) looks for what stops a reader who does
not see, or not well.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
AXE = ROOT / "tests" / "node_modules" / "axe-core" / "axe.min.js"
sys.path.insert(0, str(ROOT / "tools"))

import bookcache  # noqa: E402
import browser  # noqa: E402
import notebooks  # noqa: E402

PAGES = [Path(page).with_suffix(".html").as_posix() for page in notebooks.Book().pages]
WIDTHS = (360, 390, 768, 1400)
PRINTED = 718  # pixels between the margins of an A4 page
HEAVIEST = 1_700_000  # bytes of what a page loads besides its pictures: scripts, styles, fonts

# Rules of axe-core that are switched on or off, with the reason for those that are off.
RULES = {
    "label-content-name-mismatch": True,
    # Sphinx writes a signature of several lines as a list of definitions without terms.
    "definition-list": False,
    "dlitem": False,
}


def _why_not() -> str:
    if os.environ.get("BOOK_BROWSER") != "required":
        return "run `make test-browser`"
    if browser.find() is None:
        return f"there is no browser: none of {', '.join(browser.NAMES)} is on the PATH"
    if not AXE.exists():
        return "axe-core is not installed: run `npm ci` in tests/"
    built = HTML / "sources.txt"
    if not built.exists() or built.read_text("utf8").strip() != bookcache.sources_key():
        return "the built book is absent or older than its sources: run `make book`"
    return ""


@pytest.fixture(scope="module")
def chromium():
    reason = _why_not()
    if reason and os.environ.get("BOOK_BROWSER") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with browser.Browser(browser.find()) as opened:
        yield opened


def script(call: str) -> str:
    return f"{(ROOT / 'tests' / 'layout.js').read_text('utf8')}\n{call}"


def complaints(events) -> list[str]:
    """What the console, the network and the page itself complained about while it loaded."""
    found, loaded, aside = [], 0, set()
    for event in events:
        said = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = said["exceptionDetails"]
                error = details.get("exception", {}).get("description", details["text"])
                found.append(f"error in a script: {error}")
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "assert", "warning"):
                words = [str(a.get("value", a.get("description"))) for a in said["args"]]
                found.append(f"console {said['type']}: {' '.join(words)}")
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                found.append(f"console error: {said['entry']['text']}")
            case "Network.requestWillBeSent":
                url = said["request"]["url"]
                if not url.startswith((HTML.resolve().as_uri(), "data:", "blob:")):
                    found.append(f"loads from elsewhere: {url}")
            case "Network.loadingFailed" if not said.get("canceled"):
                found.append(f"failed request: {said['errorText']}")
            case "Network.dataReceived":
                loaded += said["dataLength"] if said["requestId"] not in aside else 0
            case "Network.responseReceived" if said["type"] in ("Document", "Image"):
                aside.add(said["requestId"])
    if loaded > HEAVIEST:
        found.append(f"loads {loaded} bytes besides its pictures, more than {HEAVIEST}")
    return found


@pytest.mark.parametrize("page", [*PAGES, "search.html"])
def test_page_can_be_read(chromium, page):
    """Loaded once, in light, then turned dark, resized, and printed."""
    chromium.media("screen", "light")
    chromium.resize(WIDTHS[0])
    chromium.open(browser.address(HTML / page))
    problems = complaints(chromium.events)
    chromium.evaluate(AXE.read_text("utf8"))
    problems += chromium.evaluate(script("[...ids(), ...formulas()]"))
    chromium.evaluate(script("unfold()"))
    for width in WIDTHS:
        chromium.resize(width)
        found = chromium.evaluate(script("[...sideways(), ...cut()]"))
        # axe-core is slow: on the cover all that is drawn in both themes, then each theme once.
        for theme in ("light", "dark"):
            if page == PAGES[0] or (width, theme) in ((390, "light"), (1400, "dark")):
                chromium.media("screen", theme)
                chromium.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
                found += chromium.evaluate(script(f"violations({json.dumps(RULES)})"))
        problems += [f"{width} pixels: {problem}" for problem in found]
    chromium.evaluate(script("fold()"))
    chromium.media("print")
    chromium.resize(PRINTED)
    found = chromium.evaluate(script("[...hidden(), ...cut(true)]"))
    problems += [f"print: {problem}" for problem in found]
    assert problems == [], "\n".join(["", *problems])


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("posterior", "book/prediction/bayes"),
        ("prompt tuning", "book/methods/soft-prompt"),
        ("soft prompt", "book/methods/soft-prompt"),
        ("hard prompt", "book/methods/hard-prompt"),
        ("prefix tuning", "book/methods/overview"),
        ("P-tuning", "book/methods/overview"),
        ("fine-tuning", "book/methods/overview"),
        ("LoRA", "book/methods/lora"),
        ("adapters", "book/methods/overview"),
    ],
)
def test_search_finds(chromium, words, page):
    """The page is among the first ten, and a page for readers is the first of all."""
    links = search(chromium, words)
    assert any(f"{page}.html" in link for link in links[:10]), links
    assert "book/reference/api" not in links[0], links


def test_search_finds_a_function_by_its_name(chromium):
    assert "book/reference/api" in search(chromium, "search_hard_prefix")[0]


def search(chromium, words):
    """Addresses of the pages found, from the file, without a network, as all the rest."""
    chromium.media("screen", "light")
    chromium.open(f"{browser.address(HTML / 'search.html')}?q={quote(words)}")
    return chromium.evaluate(
        """(async () => {
            for (let i = 0; i < 600 && !document.querySelector("#search-results li"); i++)
                await new Promise((r) => setTimeout(r, 100));
            await new Promise((r) => setTimeout(r, 500));
            const found = document.querySelectorAll("#search-results li a");
            return [...new Set([...found].map((link) => link.href.split(/[?#]/)[0]))];
        })()"""
    )
