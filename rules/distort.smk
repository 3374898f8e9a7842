rule distort:
    input:
        **stage_input("convert", "segment", "scrub"),
        key=ancient(KEY),
        # ancient: a session that changed has a new result of convert and scrub
        sessions=ancient(f"{OUT}/restricted/inventory/sessions.tsv"),
    output:
        **stage_output("distort"),
    log:
        f"{OUT}/restricted/logs/distort/{{session}}.log",
    resources:
        mem_mb=3000,
    params:
        code=code("distort"),
        models=models("distort"),
        record=RECORD,
        features=config["features"],
        method=config["method"],
    script:
        "../scripts/distort.py"
