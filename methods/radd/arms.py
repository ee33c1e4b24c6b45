"""What experiment.yaml names: training, scoring, sampling, counting and timing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from methods.radd import exact, official
from methods.radd import method as radd
from repro.data import cache as data_cache
from repro.data.containers import Text
from repro.data.corpora import ZeroShotCorpus
from repro.data.official import lambada, lm1b, ptb, wikitext2, wikitext103
from repro.data.tokens import CHAR_ALPHABET, build_gpt2, char_corpus
from repro.diffusion import absorbing
from repro.errors import ReproError
from repro.metrics.cost import (
    count_parameters,
    interleaved,
    measure_interval,
    model_size_bytes,
)
from repro.metrics.text import NGram, generative_perplexity, unigram_entropy
from repro.nets.transformer import MEDIUM, SMALL, Config, Transformer, macs
from repro.training.fit import fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Optimiser

if TYPE_CHECKING:
    from repro.job import Job

SYMBOLS = len(CHAR_ALPHABET)
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
LOSSES = ("dse", "t-dce", "lambda-dce", "ao", "sedd-scale", "sedd-unscale")

# Text


@functools.lru_cache(maxsize=4)
def encoded(text: str, characters: int) -> np.ndarray:
    """Codes (n,) of a text.

    characters: at most about so many, from excerpts spread evenly over the text, so that each of
    its sources keeps its share; 0 for all.
    """
    excerpt = 20_000
    if 0 < characters < len(text):
        starts = np.linspace(0, len(text) - excerpt, max(characters // excerpt, 1)).astype(int)
        text = "\n".join(text[s : s + excerpt] for s in starts)
    return char_corpus(text)


def windows(codes: np.ndarray, count: int, length: int) -> Tensor:
    """count windows (count, length) spread evenly over a text."""
    if len(codes) < length:
        raise ReproError(f"a text of {len(codes)} characters has no window of {length}")
    starts = np.linspace(0, len(codes) - length, count).astype(int)
    return torch.from_numpy(codes[starts[:, None] + np.arange(length)].astype(np.int64))


@functools.lru_cache(maxsize=2)
def fitted(text: str, characters: int, order: int) -> NGram:
    """An n-gram model of a text."""
    return NGram(order, SYMBOLS).fit(encoded(text, characters))


def corpus(job: Job) -> Text:
    """The one text of an arm."""
    (name,) = job.data_names or ()
    text: Text = job.data(name)
    return text


def judge(job: Job) -> NGram:
    """An n-gram model of the training text, the stand-in for the paper's GPT-2 large."""
    return fitted(corpus(job).train, job.params.characters, job.params.order)


# Networks


class Loaded(NamedTuple):
    """A network with what its loss says about how to read it."""

    network: Transformer
    loss: str
    length: int

    @property
    def timed(self) -> bool:
        return self.loss.startswith("sedd")

    @property
    def c_theta(self) -> radd.Conditionals:
        return radd.conditionals(self.network)

    @property
    def s_theta(self) -> radd.Scores:
        if self.timed:
            return radd.scores(self.network, scaled=self.loss == "sedd-scale")
        return radd.scores_of(self.c_theta)

    def conditionals_at(self, lam: Tensor) -> radd.Conditionals:
        """log c at mask probabilities lam (B,): SEDD's scores, normalised over the tokens.

        By Theorem 1 the true scores are the conditionals times a scalar. With Z the sum of s / a,
        DSE exceeds the cross-entropy of the normalised scores by a (Z - 1 - log Z) >= 0 at every
        position, so this is the reading of SEDD that serves it best.
        """
        if not self.timed:
            return self.c_theta
        limit = absorbing.LogLinear().masked(torch.ones_like(lam))
        sbar = -torch.log1p(-torch.minimum(lam, limit))
        return lambda xt: torch.log_softmax(self.s_theta(xt, sbar), dim=-1)


def build(params: Any, loss: str, vocab: int = SYMBOLS) -> Transformer:
    """A network of the sizes that a card gives, with time conditioning where the loss needs it."""
    return Transformer(
        Config(
            vocab=vocab,
            d=params.d,
            blocks=params.blocks,
            heads=params.heads,
            cond=params.cond if loss.startswith("sedd") else None,
        )
    )


def load(job: Job) -> Loaded:
    """The one model of an arm, in eval mode on its device."""
    (name,) = job.model_paths
    params = job.model_params(name)
    network = build(params, params.loss)
    network.load_state_dict(job.model(name))
    return Loaded(network.to(job.device).eval(), params.loss, params.length)


# Losses by name


def loss_of(model: Loaded, loss: str, x0: Tensor, u: Tensor, generator: torch.Generator) -> Tensor:
    """One of the losses by name, nats per sequence (B,), under log-linear noise."""
    mask, noise = model.network.config.vocab, absorbing.LogLinear()
    if loss in ("dse", "sedd-scale", "sedd-unscale"):
        return radd.dse(model.s_theta, x0, u, noise=noise, mask=mask, generator=generator)
    if loss == "t-dce":
        return radd.t_dce(model.c_theta, x0, u, noise=noise, mask=mask, generator=generator)
    if loss == "lambda-dce":
        c_theta = model.conditionals_at(u)
        return radd.lambda_dce(c_theta, x0, u, mask=mask, generator=generator)
    if loss == "ao":
        return radd.ao(model.c_theta, x0, u, mask=mask, generator=generator)
    raise ReproError(f"there is no loss `{loss}`; choose one of {', '.join(LOSSES)}")


def train(job: Job) -> dict[str, Tensor]:
    """Train one network with one loss; every loss gets the same data, budget and draw of t."""
    p = job.params
    if p.loss not in LOSSES:
        raise ReproError(f"there is no loss `{p.loss}`; choose one of {', '.join(LOSSES)}")
    codes = torch.from_numpy(encoded(corpus(job).train, p.characters))
    offsets = torch.arange(p.length)

    def batch(step: int, generator: torch.Generator) -> Tensor:
        start = torch.randint(len(codes) - p.length, (p.batch, 1), generator=generator)
        return codes[start + offsets].long()

    def loss(network: Transformer, x0: Tensor, generator: torch.Generator) -> Tensor:
        u = absorbing.uniforms(len(x0), p.draw, generator=generator).to(x0.device)
        model = Loaded(network, p.loss, p.length)
        return loss_of(model, p.loss, x0, u, generator).mean() / p.length

    network = seeded(lambda: build(p, p.loss), job.rng("network"))
    optimiser = Optimiser(lr=p.lr, warmup=p.warmup, schedule="cosine")
    return fit_and_save(
        job, network, loss, batch, optimiser, steps=p.updates, precision=p.precision
    )


# Scoring


@torch.no_grad()
def estimate(job: Job, model: Loaded, loss: str, x0: Tensor, draws: int, stream: str) -> float:
    """Monte-Carlo estimate of a loss in nats per token, with draws of (t, mask) for every window.

    The stream does not name the model: at one seed all models are scored on the same masks. The
    windows are shuffled for every draw, since a stratified draw gives its i-th row a level in the
    i-th stratum.
    """
    total = 0.0
    for draw in job.progress(range(draws), f"{loss} on {stream}"):
        generator = job.rng("score", stream, draw)
        rows = x0[torch.randperm(len(x0), generator=generator)].to(job.device)
        u = absorbing.uniforms(len(rows), "stratified", generator=generator).to(job.device)
        total += float(loss_of(model, loss, rows, u, generator).double().mean())
    return total / draws / x0.shape[1]


def score(job: Job) -> None:
    """Score a model in distribution and zero-shot, by a common estimator and by its own loss."""
    p, model, text = job.params, load(job), corpus(job)
    own = "dse" if model.timed else model.loss
    for split, passages in (("test", text.test), ("ood", text.ood)):
        if not passages:
            continue
        x0 = windows(encoded(passages, p.characters), p.windows, model.length)
        for scorer in dict.fromkeys(["lambda-dce", own, *p.scorers]):
            nats = estimate(job, model, scorer, x0, p.draws, f"{split}/{scorer}")
            job.measure("nats", nats, split=split, scorer=scorer)
            job.measure("perplexity", math.exp(nats), split=split, scorer=scorer)
            if scorer == own:
                job.measure("nats", nats, split=split, scorer="own")
                job.measure("perplexity", math.exp(nats), split=split, scorer="own")


def score_unweighted(job: Job) -> None:
    """A control: DSE, t-DCE and AO without the weights that make them lambda-DCE.

    What is left is the cross-entropy of the masked characters under each loss's own masks.
    """
    p, model = job.params, load(job)
    x0 = windows(encoded(corpus(job).test, p.characters), p.windows, model.length)
    stream, at = "test/unweighted", {"split": "test"}
    job.measure(
        "nats", estimate(job, model, "lambda-dce", x0, p.draws, stream), scorer="lambda-dce", **at
    )
    for scorer in p.scorers:
        total = 0.0
        for draw in range(p.draws):
            generator = job.rng("score", f"{stream}/{scorer}", draw)
            u = absorbing.uniforms(len(x0), "stratified", generator=generator)
            if scorer == "ao":
                k = (1 + torch.floor(model.length * u)).clamp(max=model.length)
                m = absorbing.mask_exactly(x0, k, generator=generator)
            else:
                t = radd.T_MIN + (1 - radd.T_MIN) * u
                lam = absorbing.LogLinear().masked(t)
                m = absorbing.mask_independently(x0, lam, generator=generator)
            x, m = x0.to(job.device), m.to(job.device)
            with torch.no_grad():
                log_c = model.c_theta(radd.corrupt(x, m, model.network.config.vocab))
            total += float(radd.nll(log_c, x, m).double().mean())
        job.measure("nats", total / p.draws / model.length, scorer=scorer, **at)


# Sampling


def sampler_for(
    job: Job,
    model: Loaded,
    steps: int,
    sequences: int,
    *,
    cache: bool,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Callable[[], radd.Sampled]:
    """Tau-leaping of a model from all masks: with a cache for RADD, analytic for SEDD."""
    mask, noise = model.network.config.vocab, absorbing.LogLinear()
    x = torch.full((sequences, model.length), mask, device=job.device)
    keep: dict[str, Any] = {"mask": mask, "generator": generator, "dtype": dtype}
    if model.timed:
        grid = absorbing.grid(steps)
        return lambda: radd.sedd(model.s_theta, x, grid, noise=noise, **keep)
    psi = absorbing.step_probabilities(noise, steps)
    return lambda: radd.tau_leaping(model.c_theta, x, psi, cache=cache, **keep)


def measure_text(job: Job, text_judge: NGram, x: Tensor, **at: Any) -> None:
    """Quality of samples: the judge's nats per token, and the diversity within each sequence."""
    tokens = x.cpu().numpy()
    nll = text_judge.nll(tokens)
    job.measure("judge_nll", nll.mean(), **at)
    job.measure("judge_perplexity", np.exp(nll).mean(), **at)
    job.measure("entropy", unigram_entropy(tokens).mean(), **at)


def sample(job: Job) -> None:
    """Sample a model over a range of steps: evaluations, quality, and what caching changes."""
    p, model, text_judge = job.params, load(job), judge(job)
    dtype = DTYPES[p.draws_in]
    for steps in job.progress(p.steps, "steps"):
        generator = job.rng("sample", steps)
        out = sampler_for(
            job, model, steps, p.sequences, cache=True, dtype=dtype, generator=generator
        )()
        job.measure("nfe", out.changes.double().mean(), steps=steps)
        job.measure("calls", out.calls.double().mean(), steps=steps)
        if not model.timed:
            reveal = absorbing.reveal_probabilities(
                absorbing.step_probabilities(absorbing.LogLinear(), steps)
            )
            job.measure("nfe_formula", absorbing.expected_nfe(reveal, model.length), steps=steps)
        measure_text(job, text_judge, out.x, steps=steps)
        job.save(f"samples-{steps}", out.x[:8].to(torch.uint8))
    if model.timed:
        return
    pair = [
        sampler_for(
            job, model, p.steps[-1], 64, cache=cache, dtype=dtype, generator=job.rng("pair")
        )().x
        for cache in (True, False)
    ]
    job.measure("changed_by_cache", (pair[0] != pair[1]).double().mean())


def sample_untrained(job: Job) -> None:
    """A control: samples of a network that was never trained."""
    p, text_judge = job.params, judge(job)
    network = seeded(lambda: build(p, "lambda-dce"), job.rng("network"))
    model = Loaded(network.to(job.device).eval(), "lambda-dce", p.length)
    keep: dict[str, Any] = {"cache": True, "dtype": DTYPES[p.draws_in]}
    for steps in job.progress(p.steps, "steps"):
        generator = job.rng("sample", steps)
        out = sampler_for(job, model, steps, p.sequences, generator=generator, **keep)()
        measure_text(job, text_judge, out.x, steps=steps)


def sample_in_order(job: Job) -> None:
    """Sample a model one token at a time, in random, forward and backward order."""
    p, model, text_judge = job.params, load(job), judge(job)
    d, mask = model.length, model.network.config.vocab
    for name in p.orders:
        generator = job.rng("order", name)
        order = torch.arange(d).expand(p.sequences, d)
        if name == "random":
            order = torch.rand(p.sequences, d, generator=generator).argsort(dim=1)
        elif name == "backward":
            order = order.flip(1)
        x = torch.full((p.sequences, d), mask, device=job.device)
        out = radd.any_order(
            model.c_theta,
            x,
            order.to(job.device),
            mask=mask,
            generator=generator,
            dtype=DTYPES[p.draws_in],
        )
        job.measure("calls", out.calls.double().mean(), order=name)
        measure_text(job, text_judge, out.x, order=name)


def held_out(job: Job) -> None:
    """The judge on real text it has not seen: the mark that samples can aim at."""
    p = job.params
    codes = encoded(corpus(job).test, p.characters)
    measure_text(job, judge(job), windows(codes, p.sequences, p.length))


# Counting and timing


def structure(job: Job) -> None:
    """Sizes of the true architectures, counted on shapes alone."""
    for family, cond in (("radd", None), ("sedd", 128)):
        for size, config in (("small", SMALL), ("medium", MEDIUM)):
            config = Config(d=config.d, blocks=config.blocks, heads=config.heads, cond=cond)
            with torch.device("meta"):
                network = Transformer(config)
            state = {k: tuple(v.shape) for k, v in network.state_dict().items()}
            released = official.shapes(config)
            at = {"family": family, "size": size}
            job.measure("parameters", count_parameters(network), **at)
            job.measure("tensors", len(state), **at)
            job.measure("wrong_tensors", len(set(state.items()) ^ set(released.items())), **at)
            job.measure("gmacs", macs(config, job.params.tokens)["total"] / 1e9, **at)
            job.measure("megabytes", model_size_bytes(network) / 1e6, **at)


def simulate_nfe(job: Job) -> None:
    """Evaluations of the caching sampler at the paper's length; they depend on no weights.

    One real token is enough, since which token is drawn never matters to when it is drawn.
    """
    p = job.params

    def c_theta(x: Tensor) -> Tensor:
        return torch.zeros(*x.shape, 1)

    for steps in job.progress(p.steps, "steps"):
        psi = absorbing.step_probabilities(absorbing.LogLinear(), steps)
        reveal = absorbing.reveal_probabilities(psi)
        x = torch.full((p.sequences, p.tokens), 1)
        out = radd.tau_leaping(c_theta, x, psi, mask=1, generator=job.rng("enfe", steps))
        at = {"steps": steps}
        job.measure("nfe", out.changes.double().mean(), **at)
        job.measure("calls", out.calls.double().mean(), **at)
        job.measure("nfe_formula", absorbing.expected_nfe(reveal, p.tokens), **at)
        job.measure("calls_formula", absorbing.expected_calls(reveal, p.tokens), **at)
        job.measure("ideal_speedup", steps / absorbing.expected_nfe(reveal, p.tokens), **at)
        whole = absorbing.expected_nfe(reveal, p.tokens * p.rows)
        job.measure("nfe_batch_cache", whole, **at)


def draw_precision(job: Job) -> None:
    """Entropy of a token drawn in float32 and float64 at the paper's vocabulary.

    The conditional is a Zipf law, which no step changes; the law of the draw is in closed form.
    """
    p = 1 / torch.arange(1, job.params.vocab + 1, dtype=torch.float64)
    p = p / p.sum()

    def entropy(law: Tensor) -> float:
        law = law / law.sum()
        return float(torch.special.entr(law).sum())

    for steps in job.progress(job.params.steps, "steps"):
        psi = absorbing.step_probabilities(absorbing.LogLinear(), steps)
        for dtype, bits in (("float32", 24), ("float64", 53)):
            law = exact.unmasked_law(p, psi, bits)
            job.measure("draw_entropy", entropy(law), draws_in=dtype, steps=steps)
    job.measure("draw_entropy", entropy(p), draws_in="exact", steps=0)


def time_samplers(job: Job) -> None:
    """Seconds per sample of RADD with and without its cache and of SEDD, taking turns.

    The weights are the untrained ones: how often a sequence changes does not depend on them.
    """
    p = job.params
    size = {"small": SMALL, "medium": MEDIUM}.get(p.size)
    d, blocks, heads = (size.d, size.blocks, size.heads) if size else (p.d, p.blocks, p.heads)
    networks = {}
    for family, cond in (("radd", None), ("sedd", 128)):
        config = Config(p.vocab, d, blocks, heads, cond=cond)
        with torch.device(job.device):
            network = seeded(functools.partial(Transformer, config), job.rng("network"))
        network.eval().requires_grad_(False)
        loss = "sedd-scale" if family == "sedd" else "dse"
        networks[family] = Loaded(network.to(DTYPES[p.precision]), loss, p.length)
    generator = torch.Generator(job.device).manual_seed(job.rng("latency").initial_seed())
    variants = {
        "cached": (networks["radd"], True),
        "uncached": (networks["radd"], False),
        "sedd": (networks["sedd"], False),
    }
    unknown = sorted(set(p.variants) - set(variants))
    if unknown:
        raise ReproError(f"there is no sampler `{unknown[0]}`; choose {', '.join(variants)}")
    for batch in p.batches:
        for per_token in job.progress(p.steps_per_token, f"batch {batch}"):
            steps = round(per_token * p.length)
            functions = {}
            for name in p.variants:
                model, cache = variants[name]
                functions[name] = sampler_for(
                    job,
                    model,
                    steps,
                    batch,
                    cache=cache,
                    dtype=DTYPES[p.draws_in],
                    generator=generator,
                )
                warm = sampler_for(
                    job,
                    model,
                    3,
                    batch,
                    cache=cache,
                    dtype=DTYPES[p.draws_in],
                    generator=generator,
                )
                warm()
            rounds = interleaved(functions, p.repeats, warmup=0)
            at = {"batch": batch, "steps_per_token": per_token}
            for name, taken in rounds.items():
                measure_interval(job, "seconds", taken, per=batch, variant=name, **at)
            for name in p.variants:
                if name != "cached":
                    ratio = rounds.ratio(name, "cached")
                    measure_interval(job, "speedup", ratio, over=name, **at)


# Official weights and data

ZERO_SHOT: dict[str, ZeroShotCorpus] = {
    layout.name: layout
    for layout in (lambada.LAYOUT, wikitext2.LAYOUT, ptb.LAYOUT, wikitext103.LAYOUT, lm1b.LAYOUT)
}
"""The five corpora of the paper's zero-shot tables."""


def zero_shot(job: Job) -> None:
    """Perplexity of a released model on the official corpora, by the loss it was trained with."""
    p = job.params
    loaded = official.load_published(data_cache.root() / "official" / p.weights, p.weights)
    network = loaded.network.to(job.device)
    loss = (
        p.loss
        if not p.loss.startswith("sedd")
        else ("sedd-scale" if loaded.scaled else "sedd-unscale")
    )
    model = Loaded(network, loss, loaded.length)
    vocabulary = job.data("gpt2-bpe")
    tokenizer = build_gpt2(vocabulary.encoder, vocabulary.merges)
    for name in p.corpora:
        if name not in ZERO_SHOT:
            raise ReproError(f"{name} is no zero-shot set; choose among {', '.join(ZERO_SHOT)}")
        blocks = ZERO_SHOT[name].blocks(tokenizer, length=model.length)
        if len(blocks) == 0:
            raise ReproError(f"official corpus {name} is shorter than one block of {model.length}")
        x0 = torch.from_numpy(blocks)
        total = 0.0
        for start in job.progress(range(0, len(x0), p.batch), name):
            rows = x0[start : start + p.batch].to(job.device)
            for draw in range(p.draws):
                generator = job.rng("zero-shot", name, start, draw)
                u = absorbing.uniforms(len(rows), "stratified", generator=generator)
                u = u[torch.randperm(len(rows), generator=generator)].to(job.device)
                with torch.no_grad(), autocast(job):
                    values = loss_of(model, loss, rows, u, generator)
                total += float(values.double().sum()) / p.draws
        job.measure("perplexity", math.exp(total / x0.numel()), corpus=name)
        job.measure("blocks", len(x0), corpus=name)


def autocast(job: Job) -> AbstractContextManager[Any]:
    """Half precision for the network of a released model, where the card asks for it."""
    if job.params.precision == "bfloat16":
        return torch.autocast(job.device.type, torch.bfloat16)
    return nullcontext()


def official_samples(job: Job) -> None:
    """Samples of a released model judged by GPT-2 large: the protocol of Tables 3, 4 and 6."""
    p, root = job.params, data_cache.root() / "official"
    loaded = official.load_published(root / p.weights, p.weights)
    timed = loaded.network.config.cond is not None
    loss = ("sedd-scale" if loaded.scaled else "sedd-unscale") if timed else "dse"
    model = Loaded(loaded.network.to(job.device), loss, loaded.length)
    large = official.Gpt2Judge(root / "gpt2-large", job.device, p.batch)
    generator = torch.Generator(job.device).manual_seed(job.rng("samples").initial_seed())
    for steps in p.steps:
        for dtype in p.draws_in:
            parts, calls = [], []
            for _ in job.progress(range(math.ceil(p.sequences / p.batch)), f"{steps} steps"):
                with autocast(job):
                    out = sampler_for(
                        job,
                        model,
                        steps,
                        p.batch,
                        cache=True,
                        dtype=DTYPES[dtype],
                        generator=generator,
                    )()
                parts.append(out.x.cpu())
                calls.append(out.calls.double().cpu())
            tokens = torch.cat(parts)[: p.sequences].numpy()
            at = {"steps": steps, "draws_in": dtype}
            job.measure("calls", torch.cat(calls).mean(), **at)
            job.measure("judge_perplexity", generative_perplexity(large, tokens), **at)
            job.measure("entropy", unigram_entropy(tokens).mean(), **at)
