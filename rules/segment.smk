rule segment:
    input:
        manifest=f"{OUT}/restricted/convert/{{session}}.json",
        folder=f"{OUT}/restricted/convert/{{session}}",
    output:
        folder=directory(f"{OUT}/restricted/segment/{{session}}"),
        manifest=f"{OUT}/restricted/segment/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/segment/{{session}}.log",
    threads: 2
    resources:
        mem_mb=3000,
    params:
        version=VERSION,
        model=setting.model_hash(config["models"]),
    script:
        "../scripts/segment.py"
