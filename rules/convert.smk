rule convert:
    input:
        key=ancient(KEY),
        # ancient: the table changes with any session, the fingerprint with this session only
        sessions=ancient(f"{OUT}/restricted/inventory/sessions.tsv"),
    output:
        **stage_output("convert"),
    log:
        f"{OUT}/restricted/logs/convert/{{session}}.log",
    resources:
        mem_mb=3000,
    params:
        code=code("convert"),
        record=RECORD,
        fingerprint=fingerprint,
        names=config["names"],
    script:
        "../scripts/convert.py"
