rule audit:
    input:
        **stage_input("convert", "distort", "qc"),
        key=ancient(KEY),
    output:
        **stage_output("audit"),
    log:
        f"{OUT}/restricted/logs/audit/{{session}}.log",
    resources:
        mem_mb=3000,
    params:
        code=code("audit"),
        record=RECORD,
        # the audit reads the sources again, for the identifiers to search for
        fingerprint=fingerprint,
        retain=config["retain"],
        layout=config["layout"],
    script:
        "../scripts/audit.py"
