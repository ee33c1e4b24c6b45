"""verdicts -> tables, figures, page, ledger; and the targets a person names."""


rule tables:
    input:
        lambda w: depends_on(
            w.scale, f"report/{w.method}", fingerprint.of_report([METHODS[w.method]])
        ),
        f"{WORK}/{{scale}}/verdicts/{{method}}.json",
    output:
        report(
            directory(f"{WORK}/{{scale}}/report/tables/{{method}}"),
            patterns=["{name}.md"],
            caption="../report/tables.rst",
            category="{method}",
            subcategory="tables",
        ),
        report(
            directory(f"{WORK}/{{scale}}/report/figures/{{method}}"),
            patterns=["{name}.png"],
            caption="../report/figures.rst",
            category="{method}",
            subcategory="figures",
        ),
    log:
        log_of("report/{method}"),
    params:
        command=lambda w: repro("report", w.scale, w.method),
    message:
        "tables and figures of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"


def page_inputs(w):
    methods = METHODS_AT[w.scale]
    content = [
        fingerprint.of_report([METHODS[slug] for slug in methods]),
        fingerprint.of_comparisons(),
    ]
    return [
        depends_on(w.scale, "report/page", content),
        *(
            f"{WORK}/{w.scale}/report/{kind}/{slug}"
            for slug in methods
            for kind in ("tables", "figures")
        ),
    ]


rule page:
    input:
        page_inputs,
    output:
        report(
            f"{WORK}/{{scale}}/report/site/index.html",
            caption="../report/page.rst",
            category="page",
        ),
        f"{WORK}/{{scale}}/report/claims.csv",
        f"{WORK}/{{scale}}/report/runs.csv",
    log:
        log_of("report/page"),
    params:
        command=lambda w: repro("page", w.scale),
    message:
        "page and ledger ({wildcards.scale})"
    shell:
        "{params.command} 2>&1 | tee -- {log:q}"


for _scale in SCALES:

    rule:
        name:
            _scale
        input:
            f"{WORK}/{_scale}/report/site/index.html",

    for _slug in METHODS_AT[_scale]:

        rule:
            name:
                f"{_scale}/{_slug}"
            input:
                f"{WORK}/{_scale}/report/tables/{_slug}",
                f"{WORK}/{_scale}/report/figures/{_slug}",
