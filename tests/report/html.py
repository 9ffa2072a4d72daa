"""What a browser would do with a page: its elements, the addresses that it would load, and its scripts."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

LOADING = {
    "src",
    "href",
    "srcset",
    "data",
    "action",
    "formaction",
    "poster",
    "background",
    "xlink:href",
    "ping",
    "cite",
}
"""Attributes that name an address."""

VOID = {"meta", "link", "img", "br", "hr", "input", "rect"}


class PageReader(HTMLParser):
    """Reads a page: `tags`, `addresses`, `handlers` (attributes that run code), `texts`, `scripts`, `styles`, `ids`."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.styles: list[str] = []
        self.ids: list[str] = []
        self.unclosed: list[str] = []
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)
        for name, value in attrs:
            if name in LOADING:
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
        if tag == "script":
            self._script = dict(attrs).get("type")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.unclosed.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed, f"</{tag}> closes nothing"
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.unclosed[-1] if self.unclosed else ""
        if inside == "script":
            self.scripts.append((self._script, data))
        elif inside == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)

    @property
    def shown(self) -> str:
        """All text that a reader sees."""
        return " ".join(self.texts)

    def data(self) -> Any:
        """The values for the script of the page."""
        (text,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(text)
