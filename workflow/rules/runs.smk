"""models -> runs: an arm with all its seeds; a seed that is already whole is kept."""


def inputs_of_arms(method, scale, arms):
    data, refs = set(), set()
    for arm in arms:
        data.update(method.arm(scale, arm).data)
        for seed in method.seeds(scale, arm):
            refs.update(method.arm_models(scale, arm, seed))
    return data_files(data) + model_files(refs, scale)


def run_fingerprints(method, scale, arms):
    return [
        method.run_fingerprint(scale, arm, seed, RETRAIN)
        for arm in arms
        for seed in method.seeds(scale, arm)
    ]


def run_threads(w):
    card = METHODS[w.method].arm(w.scale, w.arm)
    return workflow.cores if card.machine else card.threads


rule run:
    input:
        lambda w: inputs_of_arms(METHODS[w.method], w.scale, [w.arm]),
    output:
        f"{WORK}/{{scale}}/runs/{{method}}/{{arm}}.json",
    params:
        command=lambda w: repro("arm", w.scale, w.method, w.arm),
        fingerprint=lambda w: run_fingerprints(METHODS[w.method], w.scale, [w.arm]),
    threads: run_threads
    resources:
        machine=lambda w: int(METHODS[w.method].arm(w.scale, w.arm).machine),
        gpu=lambda w: gpu_of(METHODS[w.method].arm(w.scale, w.arm), w.scale),
        # on a cluster a latency job gets its node for itself
        slurm_extra=lambda w: (
            "'--exclusive'" if METHODS[w.method].arm(w.scale, w.arm).machine else ""
        ),
    message:
        "run {wildcards.method}/{wildcards.arm} ({wildcards.scale})"
    shell:
        "{params.command}"


def shared_arms(method, scale):
    """The arms that may run beside other work."""
    return [name for name, card in method.arms(scale).items() if not card.machine]


def run_files(method, scale):
    """What the verdicts of a method wait for."""
    arms, base = list(method.arms(scale)), f"{WORK}/{scale}/runs"
    if not in_batches(scale):
        return [f"{base}/{method.slug}/{arm}.json" for arm in arms]
    alone = [arm for arm in arms if arm not in shared_arms(method, scale)]
    return [f"{base}/{method.slug}.json"] + [f"{base}/{method.slug}/{arm}.json" for arm in alone]


def batch_of(w):
    method = METHODS[w.method]
    return method, w.scale, shared_arms(method, w.scale)


rule run_batch:
    input:
        lambda w: inputs_of_arms(*batch_of(w)),
    output:
        f"{WORK}/{{scale}}/runs/{{method}}.json",
    params:
        command=lambda w: repro("arms", w.scale, w.method),
        fingerprint=lambda w: run_fingerprints(*batch_of(w)),
    threads: lambda w: max(card.threads for card in METHODS[w.method].arms(w.scale).values())
    resources:
        gpu=lambda w: max(
            gpu_of(card, w.scale) for card in METHODS[w.method].arms(w.scale).values()
        ),
    message:
        "arms of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command}"
