# Generated heads as a DICOM export: what `snakemake demo` runs on. No person was scanned.


rule phantom:
    output:
        source=directory(str(ROOT / "demo/source")),
        needles=str(ROOT / "demo/needles.txt"),
    log:
        str(ROOT / "demo/phantom.log"),
    resources:
        mem_mb=1000,
    params:
        people=2,
        seed=11,
        mm=1.6,
    script:
        "../scripts/phantom.py"
