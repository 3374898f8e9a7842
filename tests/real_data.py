"""Files that the tests on real data need in the folder that EFFACE_DATA names."""

NEEDED = {
    "heads/val/*_T1w.nii.gz": 16,
    "heads/val/*_labels.nii.gz": 16,
    "dicom/needles.txt": 1,
    "dicom/SITE_A/*/*/S003/*": 1,
    "dicom/SITE_B/*/*/S002/*": 1,
    "dicom/SITE_C/*/S001/*": 1,
    **{f"dicom/SITE_D/*/{name}/*": 1 for name in ("enh", "ge-nih", "papaya", "ts", "xa30")},
    "cases/mosaic_sagittal/*": 1,
}
"""Smallest number of files for each pattern. A test that loops over the files of a folder would
pass without any. A test that opens a file by its name would fail, so such files are not listed."""


def missing_files(folder):
    """List the patterns with too few files in a folder, one line each; empty if it is complete."""
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    counts = {p: sum(f.is_file() for f in folder.glob(p)) for p in NEEDED}
    return [
        f"{folder}/{pattern}: {counts[pattern]} files, the tests need at least {number}"
        for pattern, number in NEEDED.items()
        if counts[pattern] < number
    ]
