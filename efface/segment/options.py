"""Switches for the steps that rest on a measurement (``snakemake evaluate``, heuristics.tsv)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Which steps are done; all of them outside an evaluation."""

    orientation: bool = True
    """Label an image again in other orientations of the head if the labels suggest one."""
    inverted: bool = True
    """Label an image with bright air again with inverted intensities."""
    unroll: bool = True
    """Label a phase-wrapped image again rolled."""
    padding: bool = True
    """Pad a small image to the size that the network was trained on."""
    refine: bool = True
    """Refine the organs with the second network."""
    attention: bool = True
    """Use the attention gates of the networks."""
    calibration: bool = True
    """Calibrate the confidences."""
    cut_landmarks: bool = True
    """Replace where landmarks that the field of view cuts may lie."""
    folded: bool = True
    """Replace what of the face the edges of the field of view fold over."""

    register: bool = True
    """Register the scans of a session to each other, to prove that the head lies alike."""


ALL = Options()
