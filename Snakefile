"""Entry point of the workflow; see workflow/rules for the arrows of the DAG.

snakemake smoke | small | gpu | paper          every method at a scale
snakemake <scale>/<method>                     one method at a scale
snakemake ... --config retrain=true            train the shipped base models anew
"""

import sys
from pathlib import Path

# the folder of this file, also where workflow/Snakefile includes it
_base = Path(workflow.basedir)
sys.path.insert(0, str(_base if (_base / "repro").is_dir() else _base.parent))

include: "workflow/rules/common.smk"
include: "workflow/rules/alone.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/verdicts.smk"
include: "workflow/rules/report.smk"

# Seconds each, and the first two want the network: they run where snakemake runs, also on a cluster.
localrules: data, official, verdict, tables, page

