rule segment:
    input:
        **stage_input("convert"),
    output:
        **stage_output("segment"),
    log:
        f"{OUT}/restricted/logs/segment/{{session}}.log",
    threads: 2
    resources:
        mem_mb=3000,
    params:
        code=code("segment"),
        models=models("segment"),
    script:
        "../scripts/segment.py"
