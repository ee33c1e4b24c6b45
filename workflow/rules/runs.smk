"""models -> runs: an arm with all its seeds; a seed that is already whole is kept."""


def inputs_of_arms(name, method, scale, arms):
    refs = plan(scale).models_of_arms(method, arms)
    identities = [
        fingerprint.of_run(method, scale, arm, seed, RETRAIN)
        for arm in arms
        for seed in method.seeds(scale, arm)
    ]
    return [
        depends_on(scale, name, identities),
        *data_files(plan(scale).data_of_arms(method, arms)),
        *official_files(method, scale, arms),
        *model_files(refs, scale),
    ]


def arm_of(w):
    return METHODS[w.method].arm(w.scale, w.arm)


rule run:
    input:
        lambda w: inputs_of_arms(
            f"runs/{w.method}/{w.arm}", METHODS[w.method], w.scale, [w.arm]
        ),
    output:
        f"{WORK}/{{scale}}/runs/{{method}}/{{arm}}.json",
    log:
        log_of("runs/{method}/{arm}"),
    params:
        command=lambda w: repro("arm", w.scale, w.method, w.arm),
    threads: lambda w: workflow.cores if arm_of(w).machine else arm_of(w).threads
    resources:
        machine=lambda w: int(arm_of(w).machine),
        gpu=lambda w: gpu_of(arm_of(w), w.scale),
        # on a cluster a latency job gets its node for itself
        slurm_extra=lambda w: "'--exclusive'" if arm_of(w).machine else "",
    message:
        "run {wildcards.method}/{wildcards.arm} ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"


def run_files(method, scale):
    """What the verdicts of a method wait for."""
    arms, base = list(method.arms(scale)), f"{WORK}/{scale}/runs"
    if not in_batches(scale):
        return [f"{base}/{method.slug}/{arm}.json" for arm in arms]
    shared = plan(scale).shared_arms(method)
    alone = [f"{base}/{method.slug}/{arm}.json" for arm in arms if arm not in shared]
    return [f"{base}/{method.slug}.json", *alone]


def cards_of_arms(w):
    return METHODS[w.method].arms(w.scale).values()


rule run_batch:
    input:
        lambda w: inputs_of_arms(
            f"runs/{w.method}",
            METHODS[w.method],
            w.scale,
            plan(w.scale).shared_arms(METHODS[w.method]),
        ),
    output:
        f"{WORK}/{{scale}}/runs/{{method}}.json",
    log:
        log_of("runs/{method}"),
    params:
        command=lambda w: repro("arms", w.scale, w.method),
    threads: lambda w: max(card.threads for card in cards_of_arms(w))
    resources:
        gpu=lambda w: max(gpu_of(card, w.scale) for card in cards_of_arms(w)),
    message:
        "arms of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"
