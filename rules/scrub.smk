rule scrub:
    input:
        key=ancient(KEY),
        # what changed in a session is in the fingerprint; the table changes with any of them
        sessions=ancient(f"{OUT}/restricted/inventory/sessions.tsv"),
    output:
        folder=directory(f"{OUT}/restricted/scrub/{{session}}"),
        manifest=f"{OUT}/restricted/scrub/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/scrub/{{session}}.log",
    resources:
        mem_mb=1500,
    params:
        version=VERSION,
        fingerprint=fingerprint,
        retain=sorted(config["retain"]),
    script:
        "../scripts/scrub.py"
