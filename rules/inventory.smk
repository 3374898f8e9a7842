from efface import inventory


def entry_fingerprint(wildcards):
    """Names, sizes and times below a top-level entry of the source, as a hash."""
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
        # hashes only: Snakemake writes parameters to its metadata
        version=VERSION,
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
        version=VERSION,
    script:
        "../scripts/inventory.py"
