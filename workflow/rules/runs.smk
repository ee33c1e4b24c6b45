"""models -> runs: an arm with all its seeds; a seed that is already whole is kept."""


def run_inputs(w):
    method = METHODS[w.method]
    card = method.arm(w.scale, w.arm)
    refs = {
        ref
        for seed in method.seeds(w.scale, w.arm)
        for ref in method.arm_models(w.scale, w.arm, seed)
    }
    return sorted(
        [f"{WORK}/data/{name}.json" for name in card.data]
        + [f"{folder(ref, w.scale)}/record.json" for ref in refs]
    )


def run_fingerprints(w):
    method = METHODS[w.method]
    return [
        method.run_fingerprint(w.scale, w.arm, seed, RETRAIN)
        for seed in method.seeds(w.scale, w.arm)
    ]


def run_threads(w):
    card = METHODS[w.method].arm(w.scale, w.arm)
    return workflow.cores if card.machine else card.threads


rule run:
    input:
        run_inputs,
    output:
        f"{WORK}/{{scale}}/runs/{{method}}/{{arm}}.json",
    params:
        command=lambda w: repro("arm", w.scale, w.method, w.arm),
        fingerprint=run_fingerprints,
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
