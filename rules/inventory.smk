from efface import inventory


def entry_fingerprint(wildcards):
    """Hash of names, sizes and times below a top-level entry of the source."""
    return inventory.entry_fingerprint(Path(SOURCE, ENTRIES[wildcards.entry]))


rule inventory_entry:
    input:
        key=ancient(KEY),
    output:
        f"{OUT}/restricted/inventory/entries/{{entry}}.json",
    log:
        f"{OUT}/restricted/logs/inventory/{{entry}}.log",
    resources:
        mem_mb=1000,
    params:
        code=code("inventory_entry"),
        # a hash, since Snakemake writes parameters to its metadata
        fingerprint=entry_fingerprint,
        ocr=config["ocr"],
    script:
        "../scripts/inventory_entry.py"


checkpoint inventory:
    input:
        key=ancient(KEY),
        entries=expand(
            f"{OUT}/restricted/inventory/entries/{{entry}}.json", entry=ENTRIES
        ),
    output:
        f"{OUT}/restricted/inventory/sessions.tsv",
        identity=f"{OUT}/restricted/identity.tsv",
    log:
        f"{OUT}/restricted/logs/inventory/sessions.log",
    resources:
        mem_mb=2000,
    params:
        code=code("inventory"),
    script:
        "../scripts/inventory.py"
