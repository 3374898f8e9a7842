"""efface: removes identity and face from head MRI, and proves it. Start at docs/architecture.md."""

from snakemake.utils import min_version

min_version("9.0")


configfile: workflow.source_path("config.yaml")


include: "rules/setting.smk"
include: "rules/phantom.smk"
include: "rules/demo.smk"
include: "rules/train.smk"


if SOURCE:

    workdir: RESTRICTED

    include: "rules/inventory.smk"
    include: "rules/scrub.smk"
    include: "rules/convert.smk"
    include: "rules/segment.smk"
    include: "rules/distort.smk"
    include: "rules/qc.smk"
    include: "rules/audit.smk"
    include: "rules/release.smk"

    rule all:
        default_target: True
        input:
            released,

    rule participant:
        input:
            of_participants,

else:

    rule all:
        default_target: True
        shell:
            "echo 'efface: name a source and a folder for the results: "
            "snakemake --cores N --config source=DIR out=DIR' >&2; exit 2"
