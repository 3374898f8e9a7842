rule segment:
    input:
        manifest=f"{OUT}/restricted/convert/{{session}}.json",
        folder=f"{OUT}/restricted/convert/{{session}}",
    output:
        folder=directory(f"{OUT}/restricted/segment/{{session}}"),
        manifest=f"{OUT}/restricted/segment/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/segment/{{session}}.log",
    params:
        version=VERSION,
        model=setting.model_hash(config["models"]),
    threads: 2
    resources:
        mem_mb=3000,
    script:
        "../scripts/segment.py"
