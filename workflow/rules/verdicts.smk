"""runs -> verdicts: every check of a method, judged."""


rule verdict:
    input:
        lambda w: [
            f"{WORK}/{w.scale}/runs/{w.method}/{arm}.json" for arm in METHODS[w.method].arms(w.scale)
        ],
    output:
        f"{WORK}/{{scale}}/verdicts/{{method}}.json",
    params:
        command=lambda w: repro("verdict", w.scale, w.method),
        checks=lambda w: cards.judging_fingerprint(METHODS[w.method], w.scale),
    message:
        "verdicts of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command}"
