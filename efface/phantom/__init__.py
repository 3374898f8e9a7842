"""Computed heads for tests and the demo: no person was ever scanned for them."""

from efface.phantom.anatomy import HeadShape, labels_of, tissues
from efface.phantom.export import Identity, demo_source, write_dicom
from efface.phantom.scans import phantom, write_bids, write_nifti

__all__ = [
    "HeadShape",
    "Identity",
    "demo_source",
    "labels_of",
    "phantom",
    "tissues",
    "write_bids",
    "write_dicom",
    "write_nifti",
]
