import bz2

import pytest

from repro.data import wikipedia
from repro.errors import ReproError

WIKITEXT = """{{Infobox
| a = {{nested|b}}
}}<!-- a comment -->
'''Albedo''' is the ''[[albedo|reflecting power]]'' of a [[plane]].<ref>{{c}}</ref><ref name="y" />
[[File:a.jpg|thumb|A picture of [[snow]] and ice with a long caption]]
{| class="wikitable"
| cell || {{template}}
|}
== Terms ({{lang|la|x}}) ==
The [http://example.org observed value] is close to one &mdash; or {{f|2}} ({{l|y}}; white) here.
* a list item which is dropped as a whole
Short line.
=== References ===
These words of the references section must not stay here.
==== Deeper ====
Nor may these words which belong to a subsection of it.
=== History ===
These words follow a heading of the same level.
== Physics ==
A formula <math>x < y</math> between words of a sentence.
A {{broken template that nothing closes loses the whole line.
[[de:Albedo]] [[Category:Optics]]
"""


def test_wikitext_becomes_prose():
    assert wikipedia.plain_wikitext(WIKITEXT).split("\n") == [
        "Albedo is the reflecting power of a plane.",
        "The observed value is close to one -- or (white) here.",
        "These words follow a heading of the same level.",
        "A formula between words of a sentence.",
        "A broken template that nothing closes loses the whole line.",
    ]


def export(pages):
    redirect_tag = '<redirect title="x"/>'
    body = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns>{redirect_tag * redirect}"
        f"<revision><text>{content}</text></revision></page>"
        for title, ns, redirect, content in pages
    )
    root = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">'
    return bz2.compress(f"{root}{body}</mediawiki>".encode())


def test_wikipedia_keeps_articles_and_splits_every_tenth():
    long = "word " * 120
    pages = [(f"A{i}", 0, False, long) for i in range(20)]
    pages[3:3] = [("R", 0, True, long), ("Talk", 1, False, long), ("Stub", 0, False, "too short")]
    found = wikipedia.articles(export(pages))
    assert [d.title for d in found] == [f"A{i}" for i in range(20)]
    assert [d.title for d in found if d.split == "test"] == ["A9", "A19"]
    with pytest.raises(ReproError, match="damaged"):
        wikipedia.articles(export(pages)[:-20])
