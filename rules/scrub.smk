rule scrub:
    input:
        key=ancient(KEY),
        # ancient: the table changes with any session, the fingerprint with this session only
        sessions=ancient(f"{OUT}/restricted/inventory/sessions.tsv"),
    output:
        **stage_output("scrub"),
    log:
        f"{OUT}/restricted/logs/scrub/{{session}}.log",
    resources:
        mem_mb=1500,
    params:
        code=code("scrub"),
        record=RECORD,
        fingerprint=fingerprint,
        retain=sorted(config["retain"]),
    script:
        "../scripts/scrub.py"
