# `efface run` on the generated heads, in its own process, as a user starts it.


rule demo:
    input:
        rules.phantom.output.source,
    log:
        "demo/demo.log",
    threads: 2
    params:
        out="demo/out",
        python=sys.executable,
    shell:
        "{params.python} -m efface.cli run {input} {params.out} --cores {threads} | tee {log}"
