"""Read every form of NIfTI, clean headers, and write masks with the geometry of an image."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from efface import nifti
from efface.convert import header
from efface.errors import EffaceError
from efface.nifti import GEOMETRY

SECRETS = (b"DOE^JANE", b"MRN4471902", b"19610203", b"RADIOLOGY", b"OSTRANDER", b"GLENHOLME")
SHAPE = (5, 6, 7)
AFFINE = np.array([[2.0, 0.1, 0, -9], [-0.1, 2.0, 0, 4], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def make_image(
    version=1, endian="<", pair=False, shape=SHAPE, dtype="i2", slope=(2.5, -3.0), **codes
):
    """Make an image with a scaling, and with an sform and a qform that differ."""
    name = f"Nifti{version}{'Pair' if pair else 'Image'}"
    kind = getattr(nib, name)
    head = kind.header_class(endianness=endian)
    head.set_data_shape(shape)
    head.set_data_dtype(np.dtype(dtype).newbyteorder(endian))
    head.set_qform(np.diag([1.5, 2, 3, 1]), codes.get("qform", 1))
    head["pixdim"][4:] = 0
    for row, name in zip(AFFINE, ("srow_x", "srow_y", "srow_z"), strict=False):
        head[name] = row
    head["sform_code"] = codes.get("sform", 4)
    head.set_xyzt_units("mm", "sec")
    voxels = np.random.default_rng(0).integers(0, 200, shape).astype(head.get_data_dtype())
    img = kind(voxels, head.get_best_affine(), head)
    img.header["scl_slope"], img.header["scl_inter"] = slope
    return img


def with_secrets(img, extensions=True):
    head = img.header
    head["descrip"], head["aux_file"] = b"DOE^JANE 19610203", b"MRN4471902"
    head["intent_name"], head["intent_code"] = b"RADIOLOGY", 1002
    head["intent_p1"] = 19610203
    head["slice_code"], head["slice_end"], head["slice_duration"] = 1, 6, 0.05
    if "db_name" in head.structarr.dtype.names:
        head["db_name"], head["data_type"] = b"OSTRANDER", b"GLENHOLME"
    else:
        head["unused_str"] = b"OSTRANDER"
    if extensions:
        head.extensions.append(nib.nifti1.Nifti1Extension(6, b"PatientName DOE^JANE"))
        head.extensions.append(nib.nifti1.Nifti1Extension(44, b'{"Id": "MRN4471902"}'))
    return img


def write_file(img, path):
    """Write an image with its stored voxels and scaling; ``.hdr`` writes a pair of files."""
    if path.suffix == ".hdr":
        slope, inter = (float(img.header[f]) for f in ("scl_slope", "scl_inter"))
        head = img.header.copy()
        head["vox_offset"] = 0
        with path.open("wb") as f:
            head.set_slope_inter(slope, inter)
            head.write_to(f)
        voxels = np.asarray(img.dataobj)
        path.with_suffix(".img").write_bytes(voxels.tobytes(order="F"))
    else:
        path.write_bytes(nifti.to_bytes(img))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a", "a.NII.GZ"])
@pytest.mark.parametrize("zipped", [False, True, "with a name", "in two members"])
def test_gzip_is_detected_by_content(tmp_path, name, zipped):
    img = make_image()
    data = nifti.to_bytes(img)
    path = tmp_path / name
    if zipped == "with a name":
        with path.open("wb") as f, gzip.GzipFile("DOE^JANE.nii", "wb", fileobj=f) as z:
            z.write(data)
    elif zipped == "in two members":
        path.write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    else:
        path.write_bytes(gzip.compress(data) if zipped else data)
    read = nifti.load(path)
    assert np.array_equal(nifti.stored(read), np.asarray(img.dataobj))
    assert nifti.scaling(read) == (2.5, -3)


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", ["hdr", "img"])
@pytest.mark.parametrize("zipped", ["", "hdr", "img", "both"])
def test_a_pair_is_read_by_either_of_its_names(tmp_path, endian, version, suffix, zipped):
    img = with_secrets(make_image(version, endian, pair=True))
    write_file(img, tmp_path / "a.hdr")
    for one in ("hdr", "img"):
        if zipped in (one, "both"):
            path = tmp_path / f"a.{one}"
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    (path,) = tmp_path.glob(f"a.{suffix}*")
    read = nifti.load(path)
    assert type(read) is (nib.Nifti1Image if version == 1 else nib.Nifti2Image)
    assert read.header.endianness == endian
    assert np.array_equal(nifti.stored(read), np.asarray(img.dataobj))
    assert nifti.scaling(read) == (2.5, -3)
    assert np.allclose(read.affine, AFFINE)
    by_nibabel = nib.load(tmp_path / path.name.removesuffix(".gz")) if not zipped else read
    assert np.array_equal(read.get_fdata(), by_nibabel.get_fdata())
    # the same from an image that nibabel opened
    single = nifti.single(by_nibabel)
    assert nifti.to_bytes(single) == nifti.to_bytes(read)
    cleaned = nifti.to_bytes(header.clean(single))
    assert not [s for s in SECRETS if s in cleaned]


def error_of(path):
    """Return the one-line error of loading a file."""
    with pytest.raises(EffaceError) as e:
        nifti.load(path)
    (line,) = str(e.value).splitlines()
    assert line.startswith(f"{path}: ")
    return line


def test_an_incomplete_pair_is_rejected(tmp_path):
    write_file(make_image(pair=True), tmp_path / "a.hdr")
    (tmp_path / "a.img").rename(tmp_path / "b.img")
    assert "the other file" in error_of(tmp_path / "a.hdr")
    assert "the other file" in error_of(tmp_path / "b.img")
    (tmp_path / "a.img").touch()
    assert "the file has 0 of" in error_of(tmp_path / "a.hdr")
    (tmp_path / "a.img.gz").touch()
    assert "one .hdr and one .img" in error_of(tmp_path / "a.hdr")
    nib.save(nib.AnalyzeImage(np.zeros(SHAPE, np.int16), np.eye(4)), tmp_path / "old.img")
    assert "ANALYZE" in error_of(tmp_path / "old.img")
    (tmp_path / "whole.img").write_bytes(nifti.to_bytes(make_image()))  # a single file, misnamed
    assert nifti.load(tmp_path / "whole.img").shape == SHAPE


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("zipped", ["no", "inside", "outside"])
@pytest.mark.parametrize("size", [0, 1, 2, 100, 347, 348, 400, 600, -1, -8])
def test_a_truncated_image_gives_a_one_line_error(tmp_path, version, zipped, size):
    data = nifti.to_bytes(make_image(version))
    if zipped == "outside":  # the compressed stream is truncated
        whole = gzip.compress(data)
        cut = whole[: min(size, len(whole) - 1)]
    else:
        cut = data[:size]
        cut = gzip.compress(cut) if zipped == "inside" else cut
    path = tmp_path / ("a.nii" if zipped == "no" else "a.nii.gz")
    path.write_bytes(cut)
    line = error_of(path)
    assert any(w in line for w in ("truncated", "not a readable", "the file is empty"))


def test_bytes_after_a_gzip_stream_give_a_one_line_error(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti.to_bytes(make_image())) + b"junk")
    assert "gzip" in error_of(path)
    assert "folder" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("dim", (n, x, x, 5, 1, 1, 1, 1)) for n, x in ((3, 32767), (3, 0), (3, -4), (9, 5))],
        *[("vox_offset", offset) for offset in (np.nan, -5, 1e30)],
        *[("datatype", 77), ("srow_x", np.nan), ("magic", b"xyz")],
    ],
)
def test_an_invalid_header_gives_a_one_line_error(tmp_path, field, value):
    data = bytearray(nifti.to_bytes(make_image()))
    dtype, offset = nib.Nifti1Header().structarr.dtype.fields[field][:2]
    raw = np.broadcast_to(np.asarray(value), dtype.shape).astype(dtype.base).tobytes()
    data[offset : offset + len(raw)] = raw
    (tmp_path / "a.nii").write_bytes(data)
    error_of(tmp_path / "a.nii")


def test_a_truncated_image_opened_by_nibabel_is_rejected(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti.to_bytes(make_image())[:-10])
    with pytest.raises(EffaceError, match="cannot be read"):
        nifti.stored(nib.load(tmp_path / "a.nii"))


UNUSED = {
    **{f"dim {n}": ("dim", n) for n in (4, 5, 6, 7)},
    **{f"pixdim {n}": ("pixdim", n) for n in (5, 6, 7)},
    **{name: (name, 0) for name in ("toffset", "slice_start", "slice_end", *nifti.QFORM)},
    **{f"{name} {n}": (name, n) for name in nifti.SFORM for n in range(4)},
}


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("field", UNUSED)
def test_unused_numbers_of_the_header_are_removed(tmp_path, version, endian, field):
    source = make_image(version, endian)
    for name in ("qform", "sform"):
        if UNUSED[field][0] in getattr(nifti, name.upper()):
            source.header[f"{name}_code"] = 0
    data = bytearray(nifti.to_bytes(source))
    name, index = UNUSED[field]
    kind, start = source.header.structarr.dtype.fields[name][:2]
    size = kind.base.itemsize
    data[start + index * size : start + (index + 1) * size] = b"19610203"[:size]
    (tmp_path / "a.nii").write_bytes(data)
    img = nifti.load(tmp_path / "a.nii")
    cleaned = header.clean(img)
    assert b"1961"[:size] not in nifti.to_bytes(cleaned)[:540]
    assert np.array_equal(nifti.stored(cleaned), np.asarray(source.dataobj))
    assert np.array_equal(cleaned.affine, img.affine)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("offset", [0, 16, 340, 348])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_header_is_never_read_as_voxels(tmp_path, version, offset, zipped):
    data = bytearray(nifti.to_bytes(with_secrets(make_image(version), extensions=False)))
    where, form = (108, "<f") if version == 1 else (168, "<q")
    data[where : where + struct.calcsize(form)] = struct.pack(form, offset)
    path = tmp_path / "a.nii"
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(EffaceError, match=r"a\.nii: .*vox"):
        nifti.load(path)


@pytest.mark.parametrize(
    "text", ["/annex/objects/MD5E-s9--0.nii.gz\n", "version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_link_without_content_is_reported(tmp_path, text):
    (tmp_path / "a.nii.gz").write_text(text)
    with pytest.raises(EffaceError, match=r"is missing; run datalad get"):
        nifti.load(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_texts_of_the_header_are_removed(tmp_path, version, endian, suffix):
    source = make_image(version, endian, pair=suffix == ".hdr")
    with_secrets(source, extensions=suffix != ".nii")
    path = tmp_path / f"DOE^JANE{suffix}"
    if suffix == ".hdr":
        write_file(source, path)
    else:
        data = bytearray(nifti.to_bytes(source))
        offset = nib.load(write_file(source, tmp_path / "x.nii")).dataobj.offset
        if suffix == ".nii":  # a gap between header and voxels that is no extension
            where, form = (108, "f") if version == 1 else (168, "q")
            data[where : where + struct.calcsize(form)] = struct.pack(endian + form, offset + 64)
            data[offset:offset] = b"DOE^JANE".ljust(64, b" ")
        data += b"MRN4471902"
        if suffix.endswith("gz"):
            with path.open("wb") as f, gzip.GzipFile("DOE^JANE.nii", "wb", fileobj=f) as z:
                z.write(data)
        else:
            path.write_bytes(data)
    img = nifti.load(path)
    cleaned = header.clean(img)
    nifti.save(cleaned, tmp_path / "out.nii.gz")
    zipped = (tmp_path / "out.nii.gz").read_bytes()
    assert zipped[3:8] == bytes(5)  # no flags (name, comment), no time
    plain = gzip.decompress(zipped)
    assert not [s for s in SECRETS if s in plain]
    out = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(nifti.stored(out), np.asarray(source.dataobj))
    assert nifti.stored(out).dtype == source.get_data_dtype()
    for field in (*GEOMETRY, "pixdim", "xyzt_units", "slice_code", "slice_end", "slice_duration"):
        assert out.header[field].tobytes() == source.header[field].tobytes(), field
    assert nifti.scaling(out) == (2.5, -3)
    removed = header.removed(img)
    assert {"descrip", "aux_file", "intent_name", "intent_code"} <= set(removed)
    assert ("2 extensions" in removed) == (suffix != ".nii")
    assert not [s for s in SECRETS if s.decode() in " ".join(removed)]
    assert header.removed(cleaned) == ()


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("codes", [(1, 4), (0, 2), (3, 0), (0, 0), (2, 1)])
@pytest.mark.parametrize("extra", [(), (1,), (4,), (1, 1)])
def test_a_mask_has_the_geometry_of_its_image(tmp_path, version, endian, codes, extra):
    img = make_image(version, endian, shape=SHAPE + extra, qform=codes[0], sform=codes[1])
    mask = nifti.like(img, np.ones(SHAPE, bool))
    nifti.save(mask, tmp_path / "m.nii.gz")
    read = nib.load(tmp_path / "m.nii.gz")
    assert read.shape == SHAPE
    assert read.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(read.dataobj), np.ones(SHAPE, np.uint8))
    for field in GEOMETRY:
        assert read.header[field].tobytes() == img.header[field].tobytes(), field
    assert np.array_equal(read.header["pixdim"][:4], img.header["pixdim"][:4])
    assert np.array_equal(read.affine, img.affine)
    assert read.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("shape", "least", "expected"),
    [
        ((5, 6, 7), 3, (5, 6, 7)),
        ((5, 6, 7), 4, (5, 6, 7)),
        ((5, 6, 7, 1), 3, (5, 6, 7)),
        ((5, 6, 7, 1), 4, (5, 6, 7, 1)),
        ((5, 6, 7, 1, 1), 4, (5, 6, 7, 1)),
        ((5, 6, 7, 1, 1, 1, 1), 3, (5, 6, 7)),
        ((5, 6, 7, 3, 1), 3, (5, 6, 7, 3)),
        ((5, 6, 7, 1, 3), 3, (5, 6, 7, 3)),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_dimensions_of_one_are_dropped(tmp_path, shape, least, expected, from_file):
    img = make_image(shape=shape)
    if from_file:
        img = nifti.load(write_file(img, tmp_path / "a.nii"))
    nifti.check(img)
    out = nifti.without_singletons(img, least)
    assert out.shape == expected
    assert np.array_equal(nifti.stored(out).ravel(order="F"), nifti.stored(img).ravel(order="F"))
    assert nifti.scaling(out) == (2.5, -3)
    assert np.array_equal(out.affine, img.affine)


@pytest.mark.parametrize(
    "shape", [(5, 6), (5, 6, 1), (5, 1, 7), (5, 6, 7, 2, 2), (5, 6, 7, 1, 2, 3)]
)
def test_other_shapes_are_rejected(shape):
    with pytest.raises(EffaceError, match=r"volume"):
        nifti.check(make_image(shape=shape))


def test_an_image_that_is_not_scalar_is_rejected():
    with pytest.raises(EffaceError, match="not scalar values"):
        nifti.check(nib.Nifti1Image(np.zeros(SHAPE, np.complex64), np.eye(4)))
    with pytest.raises(EffaceError, match="affine"):
        nifti.check(nib.Nifti1Image(np.zeros(SHAPE, np.int16), None))


def test_an_array_keeps_its_values_under_a_header_of_the_other_byte_order():
    head = nib.Nifti1Header(endianness=">")
    head.set_data_dtype(np.dtype(">i2"))
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    img = nib.Nifti1Image(voxels, np.eye(4), head)
    assert np.array_equal(nifti.stored(nifti.with_stored(img, voxels)), voxels)
