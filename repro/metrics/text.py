r"""Likelihood and diversity of token sequences, in nats.

The judge of generated text is an interpolated n-gram model. With a history $h$ of $k - 1$ tokens,
$h'$ the same without its first token, $n(h, c)$ the counts of the training text and $t(h)$ the
number of different tokens seen after $h$ (Witten-Bell smoothing),

$$ p_k(c \mid h) = \frac{n(h, c) + t(h)\, p_{k - 1}(c \mid h')}{n(h) + t(h)}, \qquad
   p_0(c) = 1 / K $$

and $p_k = p_{k - 1}$ after a history that was never seen. It has no parameter to tune, and it is a
proper distribution over the $K$ symbols after every history.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from repro.errors import ReproError
from repro.metrics.arrays import to_numpy
from repro.numbers import at_least, finite

__all__ = ["NGram", "generative_perplexity", "perplexity", "unigram_entropy"]

_DENSE = 1 << 22


class _Counts:
    """Counts of integer codes below `size`: a dense table while it is small, else sorted codes."""

    def __init__(self, codes: np.ndarray, counts: np.ndarray, size: int) -> None:
        self.codes, self.counts = codes, counts  # codes sorted and unique
        self.dense = None
        if size <= _DENSE:
            self.dense = np.zeros(size, dtype=np.int64)
            self.dense[codes] = counts

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Returns the count of every code, 0 where it was never seen; same shape."""
        if self.dense is not None:
            return self.dense[codes]
        place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[place] == codes, self.counts[place], 0)


class NGram:
    """An n-gram language model with Witten-Bell smoothing.

    Arguments:
        order: longest n-gram, 1 or more.
        alphabet: number of symbols K; tokens are integers in [0, K).

    Raises:
        ReproError: if K**order does not fit 63 bits.

    Source:
        Witten and Bell, The zero-frequency problem (1991); Chen and Goodman, An Empirical Study of
        Smoothing Techniques for Language Modeling (1999), section 2.6.
    """

    def __init__(self, order: int, alphabet: int) -> None:
        if (
            order != int(order)
            or alphabet != int(alphabet)
            or min(order, alphabet) < 1
            or alphabet**order >= 1 << 63
        ):
            raise ReproError(
                f"{order}-grams of {alphabet} symbols do not fit 63 bits; lower the order"
            )
        self.order, self.alphabet = order, alphabet
        self._tables: list[tuple[_Counts, _Counts, _Counts]] = []

    def fit(self, tokens: Any) -> NGram:
        """Counts the n-grams of a text; returns itself.

        Arguments:
            tokens: integers of shape (L,), one text, or (B, L), texts that no n-gram crosses.

        Raises:
            ReproError: if a token is outside the alphabet or a text is shorter than the order.
        """
        rows = self._checked(np.atleast_2d(to_numpy(tokens)))
        if rows.shape[1] < self.order or not rows.size:
            raise ReproError(
                f"a text of {rows.shape[1]} tokens has no {self.order}-gram; give a longer one"
            )
        K = self.alphabet
        self._tables = []
        for k in range(1, self.order + 1):
            grams, n = _occurring(_codes(rows, k, K).ravel(), K**k)
            first = np.flatnonzero(np.diff(grams // K, prepend=-1))
            histories = grams[first] // K
            self._tables.append(
                (
                    _Counts(grams, n, K**k),
                    _Counts(histories, np.add.reduceat(n, first), K ** (k - 1)),
                    _Counts(histories, np.diff(first, append=len(grams)), K ** (k - 1)),
                )
            )
        return self

    def probabilities(self, tokens: Any) -> np.ndarray:
        """Returns p(token | the up to order - 1 tokens before it) for every token.

        Arguments:
            tokens: integers, shape (B, L).

        Returns:
            float64, shape (B, L), all positive.

        Raises:
            ReproError: if the model was not fitted or a token is outside the alphabet.
        """
        if not self._tables:
            raise ReproError("the n-gram model has no counts; call fit first")
        rows = self._checked(to_numpy(tokens))
        p = np.full(rows.shape, 1.0 / self.alphabet)
        for k, (n_gram, n_history, n_types) in enumerate(self._tables, start=1):
            if rows.shape[1] < k:
                break
            codes = _codes(rows, k, self.alphabet)
            history = codes // self.alphabet
            n, t = n_history(history), n_types(history)
            lower = p[:, k - 1 :]
            p[:, k - 1 :] = np.where(
                n > 0, (n_gram(codes) + t * lower) / np.maximum(n + t, 1), lower
            )
        return p

    def nll(self, tokens: Any) -> np.ndarray:
        """Returns the mean negative log-likelihood per token of every sequence.

        Arguments:
            tokens: integers, shape (B, L), L >= 1.

        Returns:
            nats per token, float64 of shape (B,).

        Raises:
            ReproError: if the model was not fitted, a token is outside the alphabet, or there is
                none.
        """
        tokens = to_numpy(tokens)
        if not tokens.size:
            raise ReproError(f"tokens of shape {tokens.shape} have no likelihood; give (B, L > 0)")
        return -np.log(self.probabilities(tokens)).mean(axis=1)

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        _sequences(tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.alphabet:
            raise ReproError(
                f"tokens reach from {tokens.min()} to {tokens.max()}; "
                f"the alphabet is 0 to {self.alphabet - 1}"
            )
        return tokens.astype(np.int64, copy=False)


def _sequences(tokens: np.ndarray) -> np.ndarray:
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise ReproError(
            f"tokens of shape {tokens.shape} and type {tokens.dtype} are no sequences; "
            "give integers of shape (B, L)"
        )
    return tokens


def _codes(rows: np.ndarray, k: int, K: int) -> np.ndarray:
    """Returns every k-gram of rows (B, L) as one integer, its last token least, (B, L - k + 1)."""
    length = rows.shape[1] - k + 1
    codes = np.zeros((len(rows), length), dtype=np.int64)
    for i in range(k):
        codes = codes * K + rows[:, i : i + length]
    return codes


def _occurring(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the codes (N,) below `size` that occur, sorted, and how often each does."""
    if size <= _DENSE:
        counts = np.bincount(codes, minlength=size)
        occurring = np.flatnonzero(counts)
        return occurring, counts[occurring]
    return np.unique(codes, return_counts=True)


class Judge(Protocol):
    """A language model that scores sequences."""

    def nll(self, tokens: Any) -> np.ndarray:
        """Returns mean nats per token (B,) of tokens (B, L)."""


def perplexity(nll_sum: Any, tokens: Any) -> float:
    """Returns exp(total nats / total tokens).

    Arguments:
        nll_sum: summed negative log-likelihoods in nats, any shape; all are added up.
        tokens: the number of tokens that they cover, any shape; all are added up.

    Raises:
        ReproError: if there are no tokens, or the likelihoods are not finite or above 1.
    """
    total = float(finite(to_numpy(tokens), "numbers of tokens").sum())
    if total <= 0:
        raise ReproError("perplexity of no tokens is undefined; score at least one")
    nats = finite(to_numpy(nll_sum, np.float64), "negative log-likelihoods")
    at_least(float(nats.min(initial=0.0)), -1e-6, "a negative log-likelihood")
    return float(_exp_of_nats(nats.sum() / total))


def _exp_of_nats(mean: np.ndarray) -> np.ndarray:
    """exp of mean nats per token, which no probability makes negative but for rounding."""
    with np.errstate(over="ignore"):
        value = np.exp(mean)
    if not ((value >= 1 - 1e-6) & (value < np.inf)).all():
        raise ReproError(
            f"{np.min(mean):g} to {np.max(mean):g} nats per token are no negative "
            "log-likelihoods; check the judge"
        )
    return value


def generative_perplexity(judge: Judge, tokens: Any) -> float:
    """Returns the mean over sequences of exp(mean nats per token under the judge).

    Arguments:
        judge: see `Judge`; an `NGram`, say.
        tokens: generated sequences, integers of shape (B, L).

    Raises:
        ReproError: if there are none, or what the judge says is no likelihood.

    Source:
        The evaluation of SEDD (Lou et al., 2024) and RADD (Ou et al., 2025), whose judge is GPT-2
        large.
    """
    nats = np.asarray(judge.nll(tokens))
    if not nats.size:
        raise ReproError("perplexity of no text is undefined; score at least one sequence")
    return float(_exp_of_nats(nats).mean())


def unigram_entropy(tokens: Any) -> np.ndarray:
    r"""Returns the entropy of the token frequencies within each sequence.

    Arguments:
        tokens: integers, shape (B, L), L >= 1.

    Returns:
        $-\sum_c f_c \log f_c$ in nats, float64 of shape (B,); between 0 and log L.

    Raises:
        ReproError: if tokens have another shape or type, or there are none.
    """
    rows = _sequences(to_numpy(tokens))
    if not rows.size:
        raise ReproError(f"tokens of shape {rows.shape} are no sequences; give (B, L) with L > 0")
    # Runs of equal tokens in each sorted row: a run of length m adds m log m.
    B, L = rows.shape
    ordered = np.sort(rows, axis=1)
    new = np.ones((B, L), dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=B * L)
    total = np.bincount(starts // L, weights=lengths * np.log(lengths), minlength=B)
    return np.log(L) - total / L
