"""data -> models: train a network, or take the weights that come with the suite."""


def model_inputs(w):
    return inputs_of_models([cards.ModelRef(w.owner, w.model, int(w.seed))], w.scale)


def inputs_of_models(refs, scale):
    """Data of those models that are trained, and the models that they are trained from."""
    data, earlier = set(), set()
    for ref in refs:
        owner = cards.owner(ref.owner)
        card = owner.model(scale, ref.owner, ref.name)
        if not is_loaded(card):
            data.update(card.data)
            earlier.update(owner.model_models(scale, ref, RETRAIN))
    return data_files(data) + model_files(earlier - set(refs), scale)


def card_of_model(w):
    return cards.owner(w.owner).model(w.scale, w.owner, w.model)


def model_fingerprint(ref, scale):
    return cards.owner(ref.owner).model_fingerprint(scale, ref, RETRAIN)


rule model:
    input:
        model_inputs,
    output:
        f"{WORK}/{{scale}}/models/{{owner}}/{{model}}/{{seed}}/model.safetensors",
        f"{WORK}/{{scale}}/models/{{owner}}/{{model}}/{{seed}}/record.json",
    params:
        command=lambda w: repro("model", w.scale, w.owner, w.model, w.seed),
        fingerprint=lambda w: model_fingerprint(
            cards.ModelRef(w.owner, w.model, int(w.seed)), w.scale
        ),
    threads: lambda w: card_of_model(w).threads
    resources:
        gpu=lambda w: gpu_of(card_of_model(w), w.scale),
    message:
        "model {wildcards.owner}/{wildcards.model} seed {wildcards.seed} ({wildcards.scale})"
    shell:
        "{params.command}"


def models_of(w):
    return job.models_of(w.owner, w.scale, RETRAIN)


def cards_of_models(w):
    return [cards.owner(w.owner).model(w.scale, w.owner, ref.name) for ref in models_of(w)]


# The summary is the output, not the models: Snakemake deletes the outputs of a killed job.
rule model_batch:
    input:
        lambda w: inputs_of_models(models_of(w), w.scale),
    output:
        f"{WORK}/{{scale}}/models/{{owner}}.json",
    params:
        command=lambda w: repro("models", w.scale, w.owner),
        fingerprint=lambda w: [model_fingerprint(ref, w.scale) for ref in models_of(w)],
    threads: lambda w: max(card.threads for card in cards_of_models(w))
    resources:
        gpu=lambda w: max(gpu_of(card, w.scale) for card in cards_of_models(w)),
    message:
        "models of {wildcards.owner} ({wildcards.scale})"
    shell:
        "{params.command}"
