# The face model from heads and label maps. Outside a run: nothing of it touches a release.
# snakemake --cores 2 train --config heads=DIR      DIR/train and DIR/val, or one folder to be split
# snakemake --cores 2 evaluate --config heads=DIR   the model in use, on DIR/val

TRAINED = str(ROOT / "trained")


rule train:
    output:
        weights=f"{TRAINED}/face.safetensors",
        card=f"{TRAINED}/face.json",
        picture=f"{TRAINED}/curve.png",
    log:
        f"{TRAINED}/train.log",
    threads: 2
    params:
        settings=ROOT / "models/training.yaml",
        # kept when the rule is stopped: training goes on from it
        checkpoint=f"{TRAINED}/checkpoint/state.pt",
        curve=f"{TRAINED}/checkpoint/curve.csv",
        cache=f"{TRAINED}/cache",
    script:
        "../scripts/train.py"


rule evaluate:
    output:
        table=f"{TRAINED}/evaluation.tsv",
        picture=f"{TRAINED}/worst.png",
    log:
        f"{TRAINED}/evaluate.log",
    threads: 2
    params:
        model=setting.model_hash(config["models"]),
    script:
        "../scripts/evaluate.py"
