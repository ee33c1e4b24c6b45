import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.metrics import text


def slow_probability(rows, order, K, history, token):
    """The recursion of the module, by counting in plain Python."""
    if order == 0:
        return 1 / K
    history = tuple(history)[len(history) - (order - 1) :] if order > 1 else ()
    n = Counter(tuple(row[i : i + order]) for row in rows for i in range(len(row) - order + 1))
    after = {gram[-1]: m for gram, m in n.items() if gram[:-1] == history}
    lower = slow_probability(rows, order - 1, K, history[1:], token)
    if not after:
        return lower
    total, types = sum(after.values()), len(after)
    return (after.get(token, 0) + types * lower) / (total + types)


@given(
    seed=st.integers(0, 2**31),
    K=st.integers(1, 5),
    order=st.integers(1, 4),
    dense=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_probabilities_follow_the_recursion(seed, K, order, dense):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, K, (3, 9))
    test = rng.integers(0, K, (2, 6))
    limit = text._DENSE
    text._DENSE = limit if dense else 0  # both kinds of table
    try:
        found = text.NGram(order, K).fit(rows).probabilities(test)
    finally:
        text._DENSE = limit
    for b, i in itertools.product(range(2), range(6)):
        k = min(order, i + 1)
        expected = slow_probability(
            rows.tolist(), k, K, test[b, i - k + 1 : i].tolist(), test[b, i]
        )
        assert found[b, i] == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**31), K=st.integers(2, 6), order=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_probabilities_sum_to_one_after_every_history(seed, K, order):
    rng = np.random.default_rng(seed)
    model = text.NGram(order, K).fit(rng.integers(0, K, 40))
    history = np.repeat(rng.integers(0, K, (1, order - 1)), K, axis=0)
    continued = np.concatenate([history, np.arange(K)[:, None]], axis=1)
    assert model.probabilities(continued)[:, -1].sum() == pytest.approx(1, rel=1e-12)


def test_unigram_model_of_a_uniform_text_is_uniform():
    K = 8
    model = text.NGram(1, K).fit(np.tile(np.arange(K), 10))
    nll = model.nll(np.random.default_rng(0).integers(0, K, (5, 30)))
    np.testing.assert_allclose(nll, math.log(K), rtol=1e-12)


def test_a_markov_text_is_scored_at_its_entropy_rate():
    rng = np.random.default_rng(1)
    P = np.array([[0.9, 0.1], [0.2, 0.8]])
    stationary = np.array([2 / 3, 1 / 3])
    rate = -(stationary[:, None] * P * np.log(P)).sum()

    def sample(n):
        u, chain = rng.uniform(size=n), [0]
        for i in range(1, n):
            chain.append(int(u[i] < P[chain[-1], 1]))
        return np.array(chain)

    train, test = sample(60_000), sample(60_000)[None]
    nll = {order: text.NGram(order, 2).fit(train).nll(test)[0] for order in (1, 2, 4)}
    # the standard error of the rate over 60,000 steps is about 0.003
    assert nll[2] == pytest.approx(rate, abs=0.01)
    assert nll[4] == pytest.approx(rate, abs=0.01)
    assert nll[1] == pytest.approx(-(stationary * np.log(stationary)).sum(), abs=0.02)
    judge = text.NGram(2, 2).fit(train)
    assert text.generative_perplexity(judge, test) == pytest.approx(math.exp(nll[2]))


def test_rows_are_separate_texts():
    model = text.NGram(2, 3).fit(np.array([[0, 1], [2, 0]]))
    p = model.probabilities(np.array([[1, 2]]))
    # 1 never had a successor, so 2 gets its unigram probability (1 + 3/3) / (4 + 3)
    assert p[0, 1] == pytest.approx(2 / 7)


def test_generative_perplexity_averages_over_sequences():
    class Judge:
        def nll(self, tokens):
            return np.log([2.0, 8.0])

    assert text.generative_perplexity(Judge(), None) == pytest.approx(5)


def test_perplexity_averages_over_tokens():
    assert text.perplexity([math.log(4), math.log(16)], [1, 2]) == pytest.approx(4)
    with pytest.raises(ReproError, match="no tokens"):
        text.perplexity(0.0, 0)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_entropy_of_k_equally_frequent_tokens(k):
    rows = np.tile(np.arange(k), (3, 16 // k))
    np.testing.assert_allclose(text.unigram_entropy(rows), math.log(k), atol=1e-12)


def test_entropy_is_taken_within_each_sequence():
    rows = torch.tensor([[5, 5, 5, 5], [1, 2, 3, 4], [7, 7, 9, 9]])
    expected = [0, math.log(4), math.log(2)]
    np.testing.assert_allclose(text.unigram_entropy(rows), expected, atol=1e-12)
    shuffled = rows[:, [2, 0, 3, 1]]
    np.testing.assert_allclose(text.unigram_entropy(shuffled), expected, atol=1e-12)


def test_large_alphabets_use_sorted_codes():
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, 50_257, (4, 200))
    model = text.NGram(3, 50_257).fit(tokens)
    assert (model.nll(tokens) < model.nll(rng.integers(0, 50_257, (4, 200)))).all()


def test_mistakes_are_named():
    with pytest.raises(ReproError, match="63 bits"):
        text.NGram(5, 50_257)
    with pytest.raises(ReproError, match="call fit first"):
        text.NGram(2, 3).nll(np.zeros((1, 4), dtype=int))
    with pytest.raises(ReproError, match="alphabet"):
        text.NGram(2, 3).fit(np.array([0, 1, 3]))
    with pytest.raises(ReproError, match="no sequences"):
        text.NGram(2, 3).fit(np.array([0, 1, 2])).nll(np.array([0, 1]))
    with pytest.raises(ReproError, match="longer"):
        text.NGram(4, 3).fit(np.array([0, 1, 2]))
    with pytest.raises(ReproError, match="no sequences"):
        text.unigram_entropy(np.zeros(4, dtype=int))
