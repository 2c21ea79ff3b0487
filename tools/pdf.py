"""The whole book as one PDF, `_build/book.pdf`, as the browser prints it.

    python tools/pdf.py

The built pages are put one behind the other into one page, with the styles and formulas that they
have; so what is right on a printed page is right here.  Links from chapter to chapter lead inside
the document, and the headings are its outline.  LaTeX would need an installation of its own, and
draws neither the boxes nor the folds of the pages.
"""

import base64
import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
from bs4 import BeautifulSoup
from notebooks import Book

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PRINTED = ROOT / "_build" / "book.pdf"

STYLE = (
    "section.chapter { break-before: page; } section.chapter:first-of-type { break-before: auto; }"
)
FOOTER = (
    '<div style="font: 8pt sans-serif; width: 100%; text-align: center; color: #59636e">'
    '<span class="pageNumber"></span></div>'
)


def moved(page: str, address: str, pages: set[str]) -> str:
    """Where a link or a picture of a page is found from the one document at the root."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return address
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path)))
    target = page if not parts.path else path
    if target in pages:
        return f"#{target}:{unquote(parts.fragment)}"
    return target


def joined(pages: list[str]) -> str:
    """All pages in one: the first, with the articles of all of them in the place of its own."""
    cover = BeautifulSoup((HTML / pages[0]).read_text("utf8"), "html.parser")
    for attribute in ("src", "href"):
        for element in cover.select(f"head [{attribute}]"):
            element[attribute] = moved(pages[0], str(element[attribute]), set())
    body = BeautifulSoup('<main class="bd-content"></main>', "html.parser")
    whole = body.new_tag("article", attrs={"class": "bd-article"})
    assert body.main
    assert cover.head
    assert cover.body
    body.main.append(whole)
    for page in pages:
        text = BeautifulSoup((HTML / page).read_text("utf8"), "html.parser")
        article = text.select_one("article.bd-article")
        assert article is not None, f"{page} has no article"
        for attribute in ("src", "href"):
            for element in article.select(f"[{attribute}]"):
                element[attribute] = moved(page, str(element[attribute]), set(pages))
        for element in article.select("[id]"):
            element["id"] = f"{page}:{element['id']}"
        article.name = "section"
        article.attrs = {"class": "chapter", "id": f"{page}:"}
        whole.append(article)
    style = cover.new_tag("style")
    style.string = STYLE
    cover.head.append(style)
    cover.body.clear()
    cover.body.append(body)
    return str(cover)


def main() -> None:
    """Write the PDF.

    Raises:
        SystemExit: where there is no browser, or no built book.
    """
    path = browser.find()
    if path is None:
        raise SystemExit(f"make pdf needs a browser: one of {', '.join(browser.NAMES)}.")
    pages = [Path(page).with_suffix(".html").as_posix() for page in Book().pages]
    if not (HTML / pages[0]).exists():
        raise SystemExit("there is no built book; run `make book`.")
    document = HTML / "book.html"
    document.write_text(joined(pages), "utf8")
    try:
        with browser.Browser(path) as opened:
            opened.media("print", "light")
            opened.resize(718)
            opened.open(browser.address(document))
            printed = opened.call(
                "Page.printToPDF",
                preferCSSPageSize=False, paperWidth=8.27, paperHeight=11.69,
                marginTop=0.6, marginBottom=0.7, marginLeft=0.4, marginRight=0.4,
                displayHeaderFooter=True, headerTemplate="<span></span>", footerTemplate=FOOTER,
                printBackground=True, generateTaggedPDF=True, generateDocumentOutline=True,
            )  # fmt: skip
    finally:
        document.unlink()
    PRINTED.write_bytes(base64.b64decode(printed["data"]))
    print(f"The book: {PRINTED.relative_to(ROOT)}, {PRINTED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
