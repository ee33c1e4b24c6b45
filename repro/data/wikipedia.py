"""The Wikipedia excerpt that the package gensim carries for its tests: 96 articles of 2016.

Mark-up becomes plain prose (`plain_wikitext`); the tenth of every ten articles is the test split.
"""

from __future__ import annotations

import bz2
import html
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from repro.data.archives import LIMIT, read_members
from repro.data.containers import Document
from repro.data.foreign import reason
from repro.data.sources import CPYTHON_311, File, Pip
from repro.data.text import every_tenth, tidy
from repro.errors import ReproError

WHEEL = File(
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    Pip("gensim==4.4.0", CPYTHON_311),
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    27.8,
)
EXPORT = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)

_DROPPED_SECTIONS = re.compile(
    r"see also|references|notes|footnotes|citations|sources|bibliography|further reading"
    r"|external links|notes and references|references and notes|works cited|gallery",
    re.IGNORECASE,
)
_UNWANTED_LINKS = re.compile(r"(file|image|category|media|[a-z-]{2,12})\s*:", re.IGNORECASE)
_PAIRED = r"ref|math|gallery|timeline|code|source|syntaxhighlight|score|imagemap|pre|hiero|chem"


def _drop_nested(text: str, opening: str, closing: str) -> str:
    """Drop everything between balanced brackets, the brackets included.

    An opening bracket that nothing closes loses its two characters only.
    """
    pieces: list[str] = []
    starts: list[int] = []
    for piece in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if piece == opening:
            starts.append(len(pieces))
        elif piece == closing and starts:
            del pieces[starts.pop() :]
        elif piece != closing:
            pieces.append(piece)
    return "".join(pieces)


def _plain_links(text: str) -> str:
    """Replace internal links by their label and drop those to files, categories, languages."""
    inner = re.compile(r"\[\[([^\[\]]*)\]\]")

    def label(match: re.Match[str]) -> str:
        target, _, shown = match[1].partition("|")
        if _UNWANTED_LINKS.match(target.strip()):
            return ""
        return (shown.rpartition("|")[2] or target).lstrip(":")

    while (shorter := inner.sub(label, text)) != text:
        text = shorter
    return text


def plain_wikitext(text: str) -> str:
    """Turn wikitext into paragraphs of plain prose.

    Comments, references, formulas, tables, templates, files, lists, headings and the closing
    apparatus (references, external links …) go; links keep their label. What a template would have
    shown (units, foreign names) is lost with it, and so are brackets that it leaves empty. A line
    in which mark-up remains is dropped whole, and so is one of fewer than five words.
    """
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(rf"<({_PAIRED})\b[^<>]*/\s*>", "", text, flags=re.IGNORECASE)
    text = re.sub(rf"<({_PAIRED})\b[^<>]*>.*?</\1\s*>", "", text, flags=re.DOTALL | re.IGNORECASE)
    text = _drop_nested(text, "{|", "|}") if "{|" in text else text
    text = _drop_nested(text, "{{", "}}")
    text = _plain_links(text)
    text = re.sub(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\]]*)\]", r"\1", text)
    text = re.sub(r"<br\s*/?>", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"</?[a-zA-Z][^<>]*>", "", text)
    text = re.sub(r"'{2,}", "", text)
    text = re.sub(r"__[A-Z]+__", "", html.unescape(text))
    kept = []
    level_dropped = 0
    for line in text.split("\n"):
        if heading := re.fullmatch(r"\s*(=+)\s*(.*?)\s*=+\s*", line):
            level = len(heading[1])
            if _DROPPED_SECTIONS.fullmatch(heading[2]):
                level_dropped = level
            elif level <= level_dropped:
                level_dropped = 0
            continue
        if level_dropped or re.match(r"\s*[*#:;!]", line) or re.search(r"[|{}]|\[\[|\]\]", line):
            continue
        kept.append(line)
    text = tidy("\n".join(kept))
    text = re.sub(r"\(\s*(?:[,;:]\s*)*\)", "", text)
    text = re.sub(r"\(\s*(?:[,;:]\s*)*", "(", text)
    text = re.sub(r" +([,.;:)])", r"\1", text)
    return tidy("\n".join(line for line in text.split("\n") if len(line.split()) >= 5))


def articles(data: bytes) -> list[Document]:
    """Read the articles of a bzip2-compressed MediaWiki export; redirects are left out.

    Raises:
        ReproError: it is damaged, or unpacks to more than `LIMIT` bytes.
    """
    try:
        with bz2.open(io.BytesIO(data)) as stream:
            xml = stream.read(LIMIT + 1)
        if len(xml) > LIMIT:
            raise ValueError(f"it unpacks to more than {LIMIT} bytes")
        tree = ElementTree.fromstring(xml)
    except (OSError, EOFError, ValueError, ElementTree.ParseError) as error:
        raise ReproError(
            f"the Wikipedia excerpt is damaged ({reason(error)}); fetch it again"
        ) from error
    space = {"w": tree.tag.partition("}")[0].lstrip("{")}
    documents: list[Document] = []
    for page in tree.iterfind("w:page", space):
        if page.find("w:redirect", space) is not None or page.findtext("w:ns", "", space) != "0":
            continue
        text = plain_wikitext(page.findtext("w:revision/w:text", "", space))
        if len(text.split()) >= 100:
            title = page.findtext("w:title", "", space)
            documents.append(Document("wikipedia", title, every_tenth(len(documents)), text))
    return documents


def articles_of_wheel(wheel: Path) -> list[Document]:
    """Read the excerpt out of the gensim wheel."""
    return articles(read_members(wheel, [EXPORT])[EXPORT])
