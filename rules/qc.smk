rule qc:
    input:
        **stage_input("convert", "segment", "distort"),
    output:
        **stage_output("qc"),
    log:
        f"{OUT}/restricted/logs/qc/{{session}}.log",
    threads: 2
    resources:
        mem_mb=4000,
    params:
        code=code("qc"),
        models=models("qc"),
        record=RECORD,
        features=config["features"],
        method=config["method"],
    script:
        "../scripts/qc.py"
