rule convert:
    input:
        key=ancient(KEY),
        # what changed in a session is in the fingerprint; the table changes with any of them
        sessions=ancient(f"{OUT}/restricted/inventory/sessions.tsv"),
    output:
        folder=directory(f"{OUT}/restricted/convert/{{session}}"),
        manifest=f"{OUT}/restricted/convert/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/convert/{{session}}.log",
    resources:
        mem_mb=3000,
    params:
        version=VERSION,
        fingerprint=fingerprint,
        names=config["names"],
    script:
        "../scripts/convert.py"
