"""Small Siemens mosaics: one file per volume, with the private header that describes the tiles."""

import numpy as np
from small_dicom import mr

from efface.scrub import csa

ROWS, COLUMNS, SLICES, VOLUMES = 12, 16, 7, 3
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((0.96, 0.28, 0), (-0.224, 0.768, 0.6)),
}
"""Directions of a row and of a column, in the patient's coordinates."""


def header(normal, times):
    """The CSA image header."""
    entries = [
        ("NumberOfImagesInMosaic", "US", [str(len(times))]),
        ("SliceNormalVector", "FD", [f"{v:.8f}" for v in normal]),
        ("AcquisitionMatrixText", "SH", [f"{ROWS}*{COLUMNS}"]),
        ("MosaicRefAcqTimes", "FD", [f"{t:.8f}" for t in times]),
        ("PhaseEncodingDirectionPositive", "IS", ["1"]),
        ("BandwidthPerPixelPhaseEncode", "FD", ["48.07700000"]),
    ]
    return csa._written(entries)


def write(folder, plane="axial", along=1, slices=SLICES, gradients=None):
    """Write a time series; ``along``: 1 if the slices follow the planes' normal, else -1."""
    folder.mkdir(parents=True)
    across = int(np.ceil(np.sqrt(slices)))
    row, column = (np.array(v, float) for v in PLANES[plane])
    normal = along * np.cross(row, column)
    times = 60.0 * np.argsort(np.argsort([n % 2 for n in range(slices)], kind="stable"))
    first = np.array([-20.0, -15.0, 10.0])
    corner = first - 1.5 * (across - 1) / 2 * (COLUMNS * row + ROWS * column)
    rng = np.random.default_rng(5)
    paths = []
    for volume in range(VOLUMES if gradients is None else len(gradients)):
        pixels = np.zeros((across * ROWS, across * COLUMNS), np.uint16)
        for n in range(slices):
            top, left = n // across * ROWS, n % across * COLUMNS
            tile = rng.integers(1, 4000, (ROWS, COLUMNS))
            pixels[top : top + ROWS, left : left + COLUMNS] = tile
        ds = mr(
            volume + 1,
            ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
            ScanningSequence="EP",
            MRAcquisitionType="2D",
            InversionTime=None,
            SequenceVariant="SK",
            EchoTime=30,
            SeriesDescription="bold",
            AcquisitionNumber=volume + 1,
            SpacingBetweenSlices=2.4,
            ImageOrientationPatient=[float(v) for v in (*row, *column)],
            ImagePositionPatient=[f"{v:.9f}" for v in corner],
            Rows=across * ROWS,
            Columns=across * COLUMNS,
            AcquisitionMatrix=[COLUMNS, 0, 0, ROWS],
            SliceLocation=3,
            PixelData=pixels.tobytes(),
        )
        block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", header(normal, times))
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", slices)
        block.add_new(0x29, "FD", [float(t) for t in times])
        if gradients is not None:
            b, *direction = gradients[volume]
            block.add_new(0x0C, "IS", str(int(b)))
            block.add_new(0x0D, "CS", "DIRECTIONAL" if b else "NONE")
            if b:
                block.add_new(0x0E, "FD", [float(v) for v in direction])
        paths.append(folder / f"IM{volume + 1:03d}")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths
