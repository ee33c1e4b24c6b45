"""sources -> data: fetch, verify, unpack into the shared cache; leave a manifest here."""

rule data:
    input:
        lambda w: depends_on("data", w.name, fingerprint.of_data(w.name)),
    output:
        f"{WORK}/data/{{name}}.json",
    log:
        f"{WORK}/data/logs/{{name}}.log",
    params:
        command=lambda w: repro("data", w.name),
    threads: 1
    resources:
        network=1,
    message:
        "data {wildcards.name}"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"


rule official:
    input:
        lambda w: depends_on("data/official", w.name, fingerprint.of_official([w.name])),
    output:
        f"{WORK}/data/official/{{name}}.json",
    log:
        f"{WORK}/data/logs/official-{{name}}.log",
    params:
        command=lambda w: repro("official", w.name),
    threads: 1
    resources:
        network=1,
    message:
        "official files {wildcards.name}"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"
