# Generated heads as a DICOM export, the source of `snakemake demo`. They are not of real people.


rule phantom:
    output:
        source=directory("demo/source"),
        identifiers="demo/identifiers.txt",
    log:
        "demo/phantom.log",
    resources:
        mem_mb=1000,
    params:
        code=code("phantom"),
        people=2,
        seed=11,
        mm=1.6,
    script:
        "../scripts/phantom.py"
