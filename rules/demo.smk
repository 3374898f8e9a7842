# The main job on generated heads, in a process of its own as a user starts it.
rule demo:
    input:
        rules.phantom.output.source,
    log:
        str(ROOT / "demo/demo.log"),
    threads: 2
    params:
        out=str(ROOT / "demo/out"),
        python=sys.executable,
    shell:
        "{params.python} -m efface.cli run {input} {params.out} --cores {threads} | tee {log}"
