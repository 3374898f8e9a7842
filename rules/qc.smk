rule qc:
    input:
        convert=f"{OUT}/restricted/convert/{{session}}.json",
        convert_folder=f"{OUT}/restricted/convert/{{session}}",
        segment=f"{OUT}/restricted/segment/{{session}}.json",
        segment_folder=f"{OUT}/restricted/segment/{{session}}",
        distort=f"{OUT}/restricted/distort/{{session}}.json",
        distort_folder=f"{OUT}/restricted/distort/{{session}}",
    output:
        folder=directory(f"{OUT}/restricted/qc/{{session}}"),
        manifest=f"{OUT}/restricted/qc/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/qc/{{session}}.log",
    threads: 2
    resources:
        mem_mb=4000,
    params:
        version=VERSION,
        model=setting.model_hash(config["models"]),
        # no input: the inventory writes it, a checkpoint that may not start once more for it
        session=f"{OUT}/restricted/inventory/sessions/{{session}}.json",
        features=config["features"],
        method=config["method"],
    script:
        "../scripts/qc.py"
