rule audit:
    input:
        convert=f"{OUT}/restricted/convert/{{session}}.json",
        convert_folder=f"{OUT}/restricted/convert/{{session}}",
        distort=f"{OUT}/restricted/distort/{{session}}.json",
        distort_folder=f"{OUT}/restricted/distort/{{session}}",
        qc=f"{OUT}/restricted/qc/{{session}}.json",
        qc_folder=f"{OUT}/restricted/qc/{{session}}",
        key=ancient(KEY),
    output:
        folder=directory(f"{OUT}/restricted/audit/{{session}}"),
        manifest=f"{OUT}/restricted/audit/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/audit/{{session}}.log",
    resources:
        mem_mb=3000,
    params:
        version=VERSION,
        # the sources are read again for what must not leave
        fingerprint=fingerprint,
        session=f"{OUT}/restricted/inventory/sessions/{{session}}.json",
        retain=config["retain"],
        layout=config["layout"],
    script:
        "../scripts/audit.py"
