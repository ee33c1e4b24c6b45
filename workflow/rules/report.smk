"""verdicts -> tables, figures, page, ledger; and the targets a person names."""


rule tables:
    input:
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
    params:
        command=lambda w: repro("report", w.scale, w.method),
        card=lambda w: cards.reporting_fingerprint(METHODS[w.method]),
    message:
        "tables and figures of {wildcards.method} ({wildcards.scale})"
    shell:
        "{params.command}"


def page_inputs(slugs):
    return lambda w: [
        f"{WORK}/{w.scale}/report/{kind}/{slug}"
        for slug in (METHODS_AT[w.scale] if slugs is None else slugs)
        for kind in ("tables", "figures")
    ]


rule page:
    input:
        page_inputs(None),
    output:
        report(
            f"{WORK}/{{scale}}/report/index.html",
            caption="../report/page.rst",
            category="page",
        ),
        f"{WORK}/{{scale}}/report/claims.csv",
        f"{WORK}/{{scale}}/report/runs.csv",
    params:
        command=lambda w: repro("page", w.scale),
        card=lambda w: [cards.reporting_fingerprint(METHODS[slug]) for slug in METHODS_AT[w.scale]],
        comparisons=cards.comparisons_fingerprint(),
    message:
        "page and ledger ({wildcards.scale})"
    shell:
        "{params.command}"


for _scale in cards.SCALES:

    rule:
        name:
            _scale
        input:
            f"{WORK}/{_scale}/report/index.html",

    for _slug in METHODS_AT[_scale]:

        rule:
            name:
                f"{_scale}/{_slug}"
            input:
                f"{WORK}/{_scale}/report/tables/{_slug}",
                f"{WORK}/{_scale}/report/figures/{_slug}",
