"""WikiText-103, raw."""

from __future__ import annotations

from repro.data.corpora import ZeroShotCorpus, detokenise_wikitext, wikitext_rows

LAYOUT = ZeroShotCorpus(
    name="wikitext103",
    title="WikiText-103, raw",
    files=("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
    obtain="Salesforce, wikitext-103-raw-v1",
    licence="CC BY-SA 3.0",
    splits=("train", "valid", "test"),
    read=wikitext_rows,
    evaluated="test",
    detokenise=detokenise_wikitext,
)
