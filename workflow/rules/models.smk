"""data -> models: train a network, or take the weights that come with the suite."""


def model_identity(ref, scale):
    return fingerprint.of_model(library.owner(ref.owner), scale, ref, RETRAIN)


def inputs_of_models(refs, scale):
    """Data of those models that are trained, and the models that they are trained from."""
    earlier = {before for ref in refs for before in plan(scale).before(ref)} - set(refs)
    return data_files(plan(scale).data_of_models(refs)) + model_files(earlier, scale)


def model_ref(w):
    return ModelRef(w.owner, w.model, int(w.seed))


def model_inputs(w):
    ref = model_ref(w)
    name = f"models/{ref.owner}/{ref.name}/{ref.seed}"
    return [
        depends_on(w.scale, name, model_identity(ref, w.scale)),
        *inputs_of_models([ref], w.scale),
    ]


def needs_of_model(w):
    return needs.of_model(plan(w.scale), model_ref(w))


rule model:
    input:
        model_inputs,
    output:
        f"{WORK}/{{scale}}/models/{{owner}}/{{model}}/{{seed}}/model.safetensors",
        f"{WORK}/{{scale}}/models/{{owner}}/{{model}}/{{seed}}/record.json",
    log:
        log_of("models/{owner}/{model}/{seed}"),
    params:
        command=lambda w: repro("model", w.scale, w.owner, w.model, w.seed),
    threads: threads_of(needs_of_model)
    resources:
        **asked(needs_of_model),
    message:
        "model {wildcards.owner}/{wildcards.model} seed {wildcards.seed} ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"


def needs_of_models(w):
    here = plan(w.scale)
    return needs.together(needs.of_model(here, ref) for ref in here.models_of(w.owner))


def model_batch_inputs(w):
    refs = plan(w.scale).models_of(w.owner)
    identities = [model_identity(ref, w.scale) for ref in refs]
    return [
        depends_on(w.scale, f"models/{w.owner}", identities),
        *inputs_of_models(refs, w.scale),
    ]


# The summary is the output, not the models: Snakemake deletes the outputs of a killed job.
rule model_batch:
    input:
        model_batch_inputs,
    output:
        f"{WORK}/{{scale}}/models/{{owner}}.json",
    log:
        log_of("models/{owner}"),
    params:
        command=lambda w: repro("models", w.scale, w.owner),
    threads: threads_of(needs_of_models)
    resources:
        **asked(needs_of_models),
    message:
        "models of {wildcards.owner} ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"
