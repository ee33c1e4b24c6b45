"""data -> models: train a network, or take the weights that come with the suite."""


def model_inputs(w):
    card = card_of_model(w)
    if is_loaded(card):
        return []
    ref = cards.ModelRef(w.owner, w.model, int(w.seed))
    earlier = cards.owner(w.owner).model_models(w.scale, ref, RETRAIN)
    return [f"{WORK}/data/{name}.json" for name in card.data] + [
        f"{folder(ref, w.scale)}/record.json" for ref in earlier
    ]


def card_of_model(w):
    return cards.owner(w.owner).model(w.scale, w.owner, w.model)


def model_fingerprint(w):
    ref = cards.ModelRef(w.owner, w.model, int(w.seed))
    return cards.owner(w.owner).model_fingerprint(w.scale, ref, RETRAIN)


rule model:
    input:
        model_inputs,
    output:
        f"{WORK}/{{scale}}/models/{{owner}}/{{model}}/{{seed}}/model.safetensors",
        f"{WORK}/{{scale}}/models/{{owner}}/{{model}}/{{seed}}/record.json",
    params:
        command=lambda w: repro("model", w.scale, w.owner, w.model, w.seed),
        fingerprint=model_fingerprint,
    threads: lambda w: card_of_model(w).threads
    resources:
        gpu=lambda w: gpu_of(card_of_model(w), w.scale),
    message:
        "model {wildcards.owner}/{wildcards.model} seed {wildcards.seed} ({wildcards.scale})"
    shell:
        "{params.command}"
