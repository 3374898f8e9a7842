rule distort:
    input:
        key=ancient(KEY),
        # a session that changed comes through its convert and scrub
        sessions=ancient(f"{OUT}/restricted/inventory/sessions.tsv"),
        convert=f"{OUT}/restricted/convert/{{session}}.json",
        convert_folder=f"{OUT}/restricted/convert/{{session}}",
        segment=f"{OUT}/restricted/segment/{{session}}.json",
        segment_folder=f"{OUT}/restricted/segment/{{session}}",
        scrub=f"{OUT}/restricted/scrub/{{session}}.json",
        scrub_folder=f"{OUT}/restricted/scrub/{{session}}",
    output:
        folder=directory(f"{OUT}/restricted/distort/{{session}}"),
        manifest=f"{OUT}/restricted/distort/{{session}}.json",
    log:
        f"{OUT}/restricted/logs/distort/{{session}}.log",
    resources:
        mem_mb=3000,
    params:
        version=VERSION,
        features=config["features"],
        method=config["method"],
    script:
        "../scripts/distort.py"
