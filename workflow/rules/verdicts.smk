"""runs -> verdicts: every check of a method, judged."""


rule verdict:
    input:
        lambda w: run_files(METHODS[w.method], w.scale),
    output:
        f"{WORK}/{{scale}}/verdicts/{{method}}.json",
    params:
        command=lambda w: repro("verdict", w.scale, w.method),
        checks=lambda w: cards.judging_fingerprint(METHODS[w.method], w.scale),
    message:
        "verdicts of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command}"
