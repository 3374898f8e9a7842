"""The files that tests on real data need below the folder named by EFFACE_DATA."""

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
"""Smallest number of files by pattern. A test that goes through a folder needs them to prove
anything; files that a test opens by name are not listed."""


def lacking(folder):
    """What is missing in a folder of real data: one line a pattern, none if it is complete."""
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    there = {p: sum(f.is_file() for f in folder.glob(p)) for p in NEEDED}
    return [
        f"{folder}/{pattern}: {there[pattern]} files, the tests need at least {number}"
        for pattern, number in NEEDED.items()
        if there[pattern] < number
    ]
