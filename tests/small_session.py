"""A head of ellipsoids at the positions of the anatomy model, and the files of its session."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from efface import nifti
from efface.manifest import Manifest, Scan, read_manifest, write_manifest
from efface.segment import anatomy, fit
from efface.segment.labels import LABELS
from efface.segment.segmentation import of_labels
from efface.session import Series, Session

SESSION = "sub-aaaaaaaaaa_ses-bbbbbbbbbb"
STEM = f"{SESSION}_run-1_T1w"
SERIES = "series-cccccccccc"
SURE = dict.fromkeys(LABELS, 0.95)


def head(mm=4.0, turn=None, size=1.0, without=(), low=(-100, -120, -150), high=(100, 140, 100)):
    """Labels (uint8) and affine of a head; the centre of its brain is the origin of world space.

    ``turn`` is a rotation matrix, ``low`` and ``high`` are the corners of the image in mm.
    """
    model = anatomy.load()
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = low
    shape = tuple(round((h - a) / mm) for a, h in zip(low, high, strict=True))
    world = np.indices(shape).reshape(3, -1).T * mm + np.array(low)
    position = (world if turn is None else world @ turn) / size
    labels = np.zeros(len(world), np.uint8)
    for name, part in model.parts.items():
        if name not in without:
            distance = (position - part.mean) / (0.8 * part.half)
            labels[(distance**2).sum(1) < 1] = LABELS[anatomy.LANDMARKS[name]]
    if "brain" not in without:
        middle = model.brain.mean(axis=0)
        axes = np.sqrt(5) * model.brain.std(axis=0)
        labels[(((position - middle) / axes) ** 2).sum(1) < 1] = LABELS["brain"]
    return labels.reshape(shape), affine


def images(labels, affine, method=None):
    """Images (int16) before and after defacing, and the mask: organs and a margin of a voxel."""
    from scipy import ndimage

    rng = np.random.default_rng(3)
    before = rng.normal(300, 40, labels.shape).astype(np.int16)
    mask = ndimage.binary_dilation(labels >= 2, iterations=1) & (labels != 1)
    after = before.copy()
    after[mask] = rng.normal(300, 40, int(mask.sum())).astype(np.int16)
    make = lambda v: nib.Nifti1Image(v, affine)  # noqa: E731
    return make(before), make(after), mask


@dataclass
class FixedSegmenter:
    """Segmenter that returns the same labels for every defaced image."""

    labels: np.ndarray

    def resegment(self, img, before):
        return self.labels


def segmented(labels, affine, confidence=None, **more):
    """Segmentation made of labels."""
    segmentation = of_labels(labels, affine)
    return replace(segmentation, confidence=SURE if confidence is None else confidence, **more)


def series_record(name=SERIES, **more):
    """Record of a series of MR images in the inventory."""
    given = {"kind": "image", "modality": "MR", "status": "pass", "attributes": {}, **more}
    texts = dict.fromkeys(("uid", "sop_class", "frame_of_reference", "text"), "")
    sequences = {k: tuple(given.pop(k, ())) for k in ("reasons", "files")}
    return Series(**{**texts, "series": name, "number": None, **given, **sequences})


def session_record(*series, **more):
    """Record of a session in the inventory."""
    given = {"session": SESSION, "subject": SESSION.partition("_")[0], "source": "dicom", **more}
    texts = dict.fromkeys(("study", "key", "fingerprint"), "")
    return Session(**{**texts, "patient": ("", ""), "series": tuple(series), **given})


def session(status="pass", reasons=(), **more):
    """Record of a session of two series: one with a head, one withheld."""
    return session_record(
        series_record(status=status, reasons=reasons, **more),
        series_record(
            "series-dddddddddd", modality="SR", status="fail", reasons=["structured report"]
        ),
    )


def write_stage(folder: Path, stage: str, scans, files=()):
    """Write folder and manifest of a stage; return both, as arguments of the next stage."""
    target = folder / stage / SESSION
    target.mkdir(parents=True, exist_ok=True)
    for name, content in dict(files).items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            nifti.save(content, path)
    manifest = folder / stage / f"{SESSION}.json"
    write_manifest(manifest, Manifest(stage, SESSION, tuple(scans)), target)
    return target, read_manifest(manifest)


def stages(folder: Path, labels, affine, dicom: bytes | None = None, sidecar=None):
    """Write the results of convert, segment and distort for a T1w image and its DICOM series."""
    before, after, mask = images(labels, affine)
    image = Scan(STEM, SERIES, "T1w")
    content = json.dumps(sidecar or {"EchoTime": 0.003, "MagneticFieldStrength": 3}).encode()
    converted = Scan(
        STEM,
        SERIES,
        "T1w",
        files={"nifti": f"{STEM}.nii.gz", "sidecar": f"{STEM}.json"},
        measures={"datatype": "anat"},
    )
    convert = write_stage(
        folder, "convert", [converted], {f"{STEM}.nii.gz": before, f"{STEM}.json": content}
    )
    pose = fit.estimate(labels, affine)
    measures = {"confidence": SURE, "pose": pose.as_dict() if pose else None}
    labelled = Scan(STEM, SERIES, "T1w", files={"labels": "l.nii.gz"}, measures=measures)
    segment = write_stage(
        folder, "segment", [labelled], {"l.nii.gz": nib.Nifti1Image(labels, affine)}
    )
    distorted = [
        Scan(
            STEM,
            SERIES,
            "T1w",
            files={"nifti": f"nifti/{STEM}.nii.gz", "mask": f"nifti/{STEM}_mask.nii.gz"},
        ),
        Scan(SERIES, SERIES, "MR", files={"dicom": f"dicom/{SERIES}"}),
    ]
    files = {
        f"nifti/{STEM}.nii.gz": after,
        f"nifti/{STEM}_mask.nii.gz": nib.Nifti1Image(mask.astype(np.uint8), affine),
    }
    if dicom is None:
        distorted = distorted[:1]
    else:
        files[f"dicom/{SERIES}/000001.dcm"] = dicom
    return convert, segment, write_stage(folder, "distort", distorted, files), image
