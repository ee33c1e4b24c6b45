"""runs -> verdicts: every check of a method, judged."""


rule verdict:
    input:
        lambda w: depends_on(
            w.scale, f"verdicts/{w.method}", fingerprint.of_judging(METHODS[w.method], w.scale)
        ),
        lambda w: run_files(METHODS[w.method], w.scale),
    output:
        f"{WORK}/{{scale}}/verdicts/{{method}}.json",
    log:
        log_of("verdicts/{method}"),
    params:
        command=lambda w: repro("verdict", w.scale, w.method),
    message:
        "verdicts of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"
