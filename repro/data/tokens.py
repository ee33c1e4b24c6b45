"""From text to integers: a 31-symbol character code and GPT-2's byte-level BPE in blocks.

The character code is the one of the reduced-scale language experiments: lower case, letters, space
and four punctuation marks. The block rules are GPT-2's as used by SEDD and RADD (arXiv 2406.03736):
an end-of-text token after every document, everything concatenated and cut into equal blocks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from repro.data.foreign import reason
from repro.errors import ReproError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHAR_ALPHABET = "abcdefghijklmnopqrstuvwxyz .,;:"
"""The 31 symbols in the order of their codes."""

GPT2_EOS = 50256
GPT2_VOCABULARY = 50257

_CODES = np.full(128, 255, np.uint8)
_CODES[np.frombuffer(CHAR_ALPHABET.encode(), np.uint8)] = np.arange(len(CHAR_ALPHABET))


def clean_chars(text: str) -> str:
    """Reduce text to `CHAR_ALPHABET`.

    Accents go, letters become lower case, apostrophes vanish (``don't`` → ``dont``), ``!`` and
    ``?`` become a full stop, numbers with their inner punctuation and everything else become a
    space; no space stands before a mark and one behind it, of several marks in a row the first
    stays, and white space collapses to single spaces. Applying it twice changes nothing more.
    """
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c)).lower()
    text = text.replace("'", "").replace("\u2019", "")
    text = re.sub(r"[!?]", ".", text)
    text = re.sub(r"\d(?:[\d.,:;]*\d)?", " ", text)
    text = re.sub(r"[^a-z .,;:]+", " ", text)
    text = re.sub(r" *([.,;:])[ .,;:]*", r"\1 ", text)
    return re.sub(r" +", " ", text).strip(" ")


def char_corpus(text: str) -> np.ndarray:
    """Clean text with `clean_chars` and encode it.

    Returns:
        uint8 (N,), codes 0…30 into `CHAR_ALPHABET`.
    """
    return _CODES[np.frombuffer(clean_chars(text).encode("ascii"), np.uint8)]


def char_decode(codes: np.ndarray) -> str:
    """Return the text of character codes 0…30.

    Raises:
        ReproError: a code is outside the alphabet, or no integer.
    """
    codes = np.asarray(codes)
    if codes.size and codes.dtype.kind not in "iu":
        raise ReproError(f"character codes are integers; got {codes.dtype}, so round them first")
    if codes.size == 0:
        return ""
    if codes.size and (codes.min() < 0 or codes.max() >= len(CHAR_ALPHABET)):
        raise ReproError(f"character codes go from 0 to {len(CHAR_ALPHABET) - 1}; got others")
    alphabet = np.frombuffer(CHAR_ALPHABET.encode(), np.uint8)
    return alphabet[codes].tobytes().decode("ascii")


def build_gpt2(encoder: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Build GPT-2's tokeniser from its vocabulary and merges.

    ``tokenizer.encode("Hello world").ids == [15496, 995]``; the end-of-text token is `GPT2_EOS`.

    Raises:
        ReproError: two tokens share an id, an id is no index, or a merge gives no token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if len(set(encoder.values())) != len(encoder):
        raise ReproError("the vocabulary gives one id to two tokens; fetch it again")
    try:
        model = models.BPE(vocab=encoder, merges=merges)
    except Exception as error:  # the library raises bare ones
        raise ReproError(
            f"the vocabulary and its merges do not fit ({reason(error)}); fetch both again"
        ) from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def token_blocks(
    documents: Iterable[str],
    length: int,
    tokenizer: Tokenizer,
    *,
    rows_per_batch: int | None = None,
    eos: int = GPT2_EOS,
) -> np.ndarray:
    """Tokenise documents, append ``eos`` to each, concatenate and cut into blocks.

    Args:
        documents: an empty document gives a lone ``eos``.
        length: tokens in a block.
        rows_per_batch: None to drop one remainder at the very end; 1000 for the evaluation rule of
            SEDD and RADD, which drop the remainder of every batch of 1 000 documents.

    Returns:
        int64 (blocks, length).

    Raises:
        ReproError: ``length`` is not positive.
        ValueError: ``rows_per_batch`` is not positive; a document is no text.
    """
    if length < 1:
        raise ReproError(f"blocks of {length} tokens are impossible; give a positive length")
    if rows_per_batch is not None and rows_per_batch < 1:
        raise ValueError(f"batches of {rows_per_batch} documents are impossible")
    blocks = [np.empty((0, length), np.int64)]
    rest = np.empty(0, np.int64)
    iterator: Iterator[str] = iter(documents)
    while batch := list(islice(iterator, rows_per_batch or 1000)):
        if odd := [type(row).__name__ for row in batch if not isinstance(row, str)]:
            raise ValueError(f"a document is a str, not {odd[0]}")
        encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        tokens = np.concatenate(
            [rest, *(np.asarray([*e.ids, eos], np.int64) for e in encoded)], dtype=np.int64
        )
        whole = len(tokens) // length * length
        blocks.append(tokens[:whole].reshape(-1, length))
        rest = tokens[:0] if rows_per_batch else tokens[whole:]
    return np.concatenate(blocks)
