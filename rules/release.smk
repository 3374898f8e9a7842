# What is released is known only when all sessions are audited: the gate is a checkpoint.
from efface import release


def accepted(wildcards):
    """The table of scans that a reviewer accepted or rejected, if there is one."""
    return [config["accept"]] if config["accept"] else []


def decision(wildcards):
    """The gate's decision for one session.

    The gate writes the file only if the decision changed: a scan that a reviewer accepts releases
    its session again, and no other. A parameter cannot do this, since Snakemake computes it before
    the gate runs.
    """
    path = Path(f"{OUT}/restricted/gate/{wildcards.sub}_{wildcards.ses}.tsv")
    return [str(path)] if path.exists() else []


def released_sessions(form):
    """Sessions of which the release holds something in the given form."""
    return release.table_of(checkpoints.gate.get().output[0], form)


def released_folders(wildcards):
    """The folder of every session in the release, in both forms."""
    return [
        f"{OUT}/release/{form}/{session.replace('_', '/')}"
        for form in release.FORMS
        for session in released_sessions(form)
    ]


def stage_results(wildcards):
    """Folder and manifest of every session at every stage."""
    table = checkpoints.inventory.get().output[0]
    return [
        path.format(session=session)
        for stage in layout.STAGES
        for path in layout.stage_output(OUT, stage).values()
        for session in sessions.sessions(table, [])
    ]


def released(wildcards):
    """All that a run makes: the release, its manifest, the audit, the table of source files.

    The results of the stages too: a folder that was deleted is made again.
    """
    return [
        *released_folders(wildcards),
        *stage_results(wildcards),
        f"{OUT}/release/manifest.tsv",
        f"{OUT}/audit/index.html",
        f"{OUT}/restricted/files.tsv",
    ]


checkpoint gate:
    input:
        manifests=of_everybody,
        accept=accepted,
    output:
        f"{OUT}/restricted/gate.tsv",
    log:
        f"{OUT}/restricted/logs/gate.log",
    params:
        code=code("gate"),
    script:
        "../scripts/gate.py"


rule release_bids:
    input:
        folder=f"{OUT}/restricted/audit/{{sub}}_{{ses}}",
        manifest=f"{OUT}/restricted/audit/{{sub}}_{{ses}}.json",
        decision=decision,
    output:
        directory(f"{OUT}/release/bids/{{sub}}/{{ses}}"),
    log:
        f"{OUT}/restricted/logs/release_bids/{{sub}}_{{ses}}.log",
    params:
        code=code("release"),
    script:
        "../scripts/release.py"


rule release_dicom:
    input:
        folder=f"{OUT}/restricted/audit/{{sub}}_{{ses}}",
        manifest=f"{OUT}/restricted/audit/{{sub}}_{{ses}}.json",
        decision=decision,
    output:
        directory(f"{OUT}/release/dicom/{{sub}}/{{ses}}"),
    log:
        f"{OUT}/restricted/logs/release_dicom/{{sub}}_{{ses}}.log",
    params:
        code=code("release"),
    script:
        "../scripts/release.py"


rule report:
    input:
        gate=f"{OUT}/restricted/gate.tsv",
        manifests=of_everybody,
        folders=released_folders,
        accept=accepted,
        entries=expand(
            f"{OUT}/restricted/inventory/entries/{{entry}}.json", entry=ENTRIES
        ),
        key=ancient(KEY),
    output:
        manifest=f"{OUT}/release/manifest.tsv",
        description=f"{OUT}/release/bids/dataset_description.json",
        readme=f"{OUT}/release/bids/README.md",
        page=f"{OUT}/audit/index.html",
        table=f"{OUT}/audit/scans.tsv",
        data=f"{OUT}/audit/audit.json",
        files=f"{OUT}/restricted/files.tsv",
    log:
        f"{OUT}/restricted/logs/report.log",
    resources:
        mem_mb=3000,
    params:
        # recorded in the audit: the code and models of the whole run
        code=code(*dependencies.PIPELINE),
        models=models(*dependencies.PIPELINE),
        settings={name: config[name] for name in release.SETTINGS},
    script:
        "../scripts/report.py"


wildcard_constraints:
    sub="sub-[a-z0-9]+",
    ses="ses-[a-z0-9]+",
