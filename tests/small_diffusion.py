"""Small diffusion series with the elements of each manufacturer, in classic MR objects."""

import numpy as np
from small_dicom import mr

SLICES = 4
ANGLES = np.deg2rad([17, -9, 25])
GRADIENTS = np.array(
    [
        [0, 0, 0, 0],
        [1000, 1, 0, 0],
        [1000, 0, 0.6, 0.8],
        [2000, -0.48, 0.6, 0.64],
        [2000, 0.36, -0.48, 0.8],
    ]
)
"""b-value in s/mm², and direction in the patient's coordinates."""


def rotation():
    """Oblique axes: rows, columns and normal of the slices, in the patient's coordinates."""
    a, b, c = ANGLES
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def _private(ds, group, creator, values):
    block = ds.private_block(group, creator, create=True)
    for element, vr, value in values:
        block.add_new(element, vr, value)


def _siemens(ds, b, direction, volume):
    values = [(0x0C, "IS", str(int(b))), (0x0D, "CS", "DIRECTIONAL" if b else "NONE")]
    values += [(0x0E, "FD", list(direction))] if b else []
    _private(ds, 0x0019, "SIEMENS MR HEADER", values)
    ds.Manufacturer, ds.SoftwareVersions = "SIEMENS", "syngo MR E11"


def _philips(ds, b, direction, volume):
    _private(
        ds,
        0x2001,
        "Philips Imaging DD 001",
        [(0x03, "FL", float(b)), (0x04, "CS", "O" if b else "I"), (0x18, "SL", SLICES)],
    )
    x, y, z = direction
    _private(
        ds,
        0x2005,
        "Philips MR Imaging DD 001",
        [(0x0E, "FL", 0.0125), (0xB0, "FL", x), (0xB1, "FL", y), (0xB2, "FL", z)],
    )
    _private(
        ds,
        0x2005,
        "Philips MR Imaging DD 005",
        [(0x12, "IS", "2" if b else "1"), (0x13, "IS", str(volume + 1))],
    )
    ds.Manufacturer = "Philips Medical Systems"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1.29", "0", "normalized"


def _ge(ds, b, direction, volume):
    # along rows, columns and slices of the image; phase is encoded along columns
    x, y, z = direction @ rotation()
    values = [(0x9C, "LO", "epi2"), (0x9E, "LO", "EPI2"), (0xE0, "DS", "4")]
    values += [(e, "DS", f"{v:.6f}") for e, v in ((0xBB, y), (0xBC, x), (0xBD, z))]
    _private(ds, 0x0019, "GEMS_ACQU_01", values)
    _private(ds, 0x0043, "GEMS_PARM_01", [(0x39, "IS", [str(int(b)), "8", "0", "0"])])
    _private(ds, 0x0021, "GEMS_RELA_01", [(0x4F, "SS", SLICES)])
    ds.Manufacturer, ds.InPlanePhaseEncodingDirection = "GE MEDICAL SYSTEMS", "COL"
    ds.ImagesInAcquisition = SLICES


def _canon(ds, b, direction, volume):
    if b:
        x, y, z = direction @ rotation()
        ds.DiffusionBValue = float(b)
        ds.ImageComments = f"b={int(b)}({y:.3f},{x:.3f},{z:.3f})"
    ds.Manufacturer, ds.InPlanePhaseEncodingDirection = "CANON_MEC", "COL"


def _toshiba(ds, b, direction, volume):
    if b:
        ds.DiffusionBValue, ds.DiffusionGradientOrientation = float(b), list(direction)
    ds.Manufacturer = "TOSHIBA"


def _uih(ds, b, direction, volume):
    values = [(0x09, "FD", float(b))] + ([(0x37, "FD", list(direction))] if b else [])
    _private(ds, 0x0065, "Image Private Header", values)
    ds.Manufacturer = "UIH"


MAKERS = {
    "siemens": _siemens,
    "philips": _philips,
    "ge": _ge,
    "canon": _canon,
    "toshiba": _toshiba,
    "uih": _uih,
}


def write(folder, maker, gradients=GRADIENTS):
    """Write a series with one volume for each gradient; return the paths."""
    folder.mkdir(parents=True)
    axes = rotation()
    paths = []
    for volume, (b, *direction) in enumerate(gradients):
        for k in range(SLICES):
            number = volume * SLICES + k + 1
            ds = mr(
                number,
                ImageComments=None,
                SeriesDescription="dti",
                ScanningSequence=["SE", "EP"],
                MRAcquisitionType="2D",
                InversionTime=None,
                SequenceVariant="SK",
                ImageType=["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"],
                AcquisitionNumber=volume + 1,
                SpacingBetweenSlices=2,
                ImageOrientationPatient=[f"{v:.12f}" for v in axes[:, :2].T.ravel()],
                ImagePositionPatient=[f"{v:.9f}" for v in axes @ (-12.0, -9.0, 2.0 * k)],
            )
            MAKERS[maker](ds, b, np.array(direction), volume)
            paths.append(folder / f"IM{number:03d}")
            ds.save_as(paths[-1], enforce_file_format=True)
    return paths
