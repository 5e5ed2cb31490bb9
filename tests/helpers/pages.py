"""The page as tests read it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from tests.helpers.study_files import Draft


class Page(HTMLParser):
    """What the tests ask of a page: its ids, links, headings, addresses and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        found = {k: v or "" for k, v in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.handlers += [k for k in found if k.startswith("on")]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        for key in ("href", "src", "xlink:href"):
            if key in found:
                (self.links if found[key].startswith("#") else self.addresses).append(found[key])

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.words += [] if self.inside in ("style", "script") else [data]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def without_curves(draft: Draft) -> Draft:
    return replace(draft, trials=[trial | {"curves": None} for trial in draft.trials])
