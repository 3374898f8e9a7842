# Training and evaluation of the face model. No part of a de-identification run.
# snakemake --cores 2 train --config heads=DIR      DIR/train and DIR/val, or one folder, which is split
#   models=DIR: first correct gross errors of the label maps with the model in DIR
# snakemake --cores 2 ablation --config heads=DIR   small networks with and without each part
# snakemake --cores 2 label --config heads=DIR      draft label maps of heads without one
# snakemake --cores 2 evaluate --config heads=DIR   evaluate the model in use on DIR/val

TRAINED = "trained"


rule train:
    output:
        graph=f"{TRAINED}/face.xml",
        weights=f"{TRAINED}/face.bin",
        card=f"{TRAINED}/face.json",
        picture=f"{TRAINED}/curve.png",
    log:
        f"{TRAINED}/train.log",
    threads: 2
    params:
        settings=resources.models() / "training.yaml",
        # kept when the rule is stopped: training goes on from it
        checkpoint=f"{TRAINED}/checkpoint/state.pt",
        curve=f"{TRAINED}/checkpoint/curve.csv",
        cache=f"{TRAINED}/cache",
    script:
        "../scripts/train.py"


rule ablation:
    output:
        f"{TRAINED}/ablation.tsv",
    log:
        f"{TRAINED}/ablation.log",
    threads: 2
    params:
        settings=resources.models() / "training.yaml",
        # half the resolution and half the widths: minutes on a CPU
        small={
            "mm": 4.0,
            "shape": [48, 64, 64],
            "coarse_widths": [16, 32, 64],
            "refine_widths": [16, 32, 64],
            "refine_steps": 3600,
            "steps": 2200,
            "learning_rate": 0.003,
            "organ_weight": 6.0,  # a short training must learn the organs early
            "unchanged": 0.8,
            "phantoms": 0,
            "average": 0.99,
        },
        checkpoints=f"{TRAINED}/checkpoint/ablation",
        cache=f"{TRAINED}/cache",
    script:
        "../scripts/ablation.py"


rule label:
    output:
        f"{TRAINED}/labels.tsv",
    log:
        f"{TRAINED}/label.log",
    threads: 2
    params:
        models=models("label"),
        pictures=f"{TRAINED}/labels",
        # a head that came since is a reason to draft again; maps that are there stay as they are
        heads=unlabelled_heads,
    script:
        "../scripts/label.py"


rule heuristics:
    output:
        table=f"{TRAINED}/heuristics.tsv",
    log:
        f"{TRAINED}/heuristics.log",
    threads: 2
    params:
        models=models("heuristics"),
        transformed=2,  # heads evaluated under every transformation; all are evaluated unchanged
        combined=5,  # random combinations of transformations for each head
    script:
        "../scripts/heuristics.py"


rule evaluate:
    input:
        rules.heuristics.output,
    output:
        table=f"{TRAINED}/evaluation.tsv",
        cascade=f"{TRAINED}/cascade.tsv",
        transformed=f"{TRAINED}/transformations.tsv",
        cases=f"{TRAINED}/cases.tsv",
        figure=f"{TRAINED}/transformations.png",
        calibration=f"{TRAINED}/calibration.json",
        picture=f"{TRAINED}/worst.png",
    log:
        f"{TRAINED}/evaluate.log",
    threads: 2
    params:
        models=models("evaluate"),
        cache=f"{TRAINED}/cache",
        transformed=4,  # heads evaluated under every transformation; all are evaluated unchanged
        combined=5,  # random combinations of transformations for each head
    script:
        "../scripts/evaluate.py"
