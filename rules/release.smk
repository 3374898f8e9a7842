# The one door. What goes through is known only when all sessions are audited: a checkpoint.
from efface import release


def verdicts(wildcards):
    """The table of what reviewers said, if there is one."""
    return [config["accept"]] if config["accept"] else []


def decision(wildcards):
    """What the gate decided for one session.

    The gate writes it only if it changed: a scan that a reviewer accepts makes its session anew,
    and no other. A parameter would not do: Snakemake knows it from before the gate ran again.
    """
    path = Path(f"{OUT}/restricted/gate/{wildcards.sub}_{wildcards.ses}.tsv")
    return [str(path)] if path.exists() else []


def opened(form):
    """Sessions of which something goes out in a form."""
    return release.table_of(checkpoints.gate.get().output[0], form)


def doors(wildcards):
    """The folder of every session in the release, in both forms."""
    return [
        f"{OUT}/release/{form}/{session.replace('_', '/')}"
        for form in release.FORMS
        for session in opened(form)
    ]


def left(wildcards):
    """Folder and manifest of every session at every stage."""
    stages = [f"{OUT}/restricted/{stage}" for stage in STAGES]
    sessions = setting.sessions(checkpoints.inventory.get().output[0], [])
    return [
        f"{s}/{session}{end}"
        for s in stages
        for session in sessions
        for end in ("", ".json")
    ]


def released(wildcards):
    """All that a run makes: the release, its manifest, the audit, the account of the sources.

    And what every stage left: a folder that somebody deleted is made again.
    """
    return [
        *doors(wildcards),
        *left(wildcards),
        f"{OUT}/release/manifest.tsv",
        f"{OUT}/audit/index.html",
        f"{OUT}/restricted/files.tsv",
    ]


checkpoint gate:
    input:
        manifests=audited,
        accept=verdicts,
    output:
        f"{OUT}/restricted/gate.tsv",
    log:
        f"{OUT}/restricted/logs/gate.log",
    params:
        version=VERSION,
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
        version=VERSION,
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
        version=VERSION,
    script:
        "../scripts/release.py"


rule report:
    input:
        gate=f"{OUT}/restricted/gate.tsv",
        manifests=audited,
        doors=doors,
        accept=verdicts,
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
        version=VERSION,
        model=setting.model_hash(config["models"]),
        settings={name: config[name] for name in release.SETTINGS},
    script:
        "../scripts/report.py"


wildcard_constraints:
    sub="sub-[a-z0-9]+",
    ses="ses-[a-z0-9]+",
