"""The judge on trial: what becomes of its verdicts when records, code, cards or data are wrong.

    repro audit                    all of it; the table goes to repro/suite/audit/table.{md,json}
    repro audit radd --quick       a few cases of a paper, printed only

Two families. `mutations` tampers with the records that the judge reads. `planting` plants the
faults of ``faults.yaml`` in a copy of the tree and runs there what ought to notice them. A case is
noticed by the judge where a job or a verdict is refused or a verdict changes, and by the tests
where one of them fails; all else is listed with the reason.
"""
