"""sources -> data: fetch, verify, unpack into the shared cache; leave a manifest here."""


rule data:
    output:
        f"{WORK}/data/{{name}}.json",
    params:
        command=lambda w: repro("data", w.name),
        fingerprint=lambda w: cards.data_fingerprint(w.name),
    threads: 1
    resources:
        network=1,
    message:
        "data {wildcards.name}"
    shell:
        "{params.command}"
