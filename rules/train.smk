# The face model from heads and label maps. Outside a run: nothing of it touches a release.
# snakemake --cores 2 train --config heads=DIR      DIR/train and DIR/val, or one folder to be split
#   models=DIR: a model whose agreement with itself in the mirror puts lumps in labels right first
# snakemake --cores 2 ablation --config heads=DIR   small networks with and without each part
# snakemake --cores 2 label --config heads=DIR      drafts of label maps for heads that have none
# snakemake --cores 2 evaluate --config heads=DIR   the model in use, on DIR/val

TRAINED = "trained"


rule train:
    output:
        weights=f"{TRAINED}/face.safetensors",
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
            "widths": [16, 32, 64],
            "cut": [16, 32, 64],
            "cut_steps": 3600,
            "steps": 2200,
            "learning_rate": 0.003,
            "organ_weight": 6.0,  # organs are learned early, and the training is short
            "as_it_is": 0.8,
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


rule evaluate:
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
        transformed=4,  # heads to be seen in every way; all heads are seen as they are
        combined=5,  # ways in which every head has several things amiss at once
    script:
        "../scripts/evaluate.py"
