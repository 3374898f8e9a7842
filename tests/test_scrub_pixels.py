"""Data hidden beside the pixels: unused bits, and segments that a decoder ignores."""

import io
import struct

import numpy as np
import PIL.Image
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, generate_frames
from small_dicom import mr

from efface.pseudonym import Key
from efface.scrub import WithheldError, scrub_bytes
from efface.scrub.bits import cells
from efface.scrub.codec import DamagedError, syntax
from efface.scrub.streams import clean

WHO = (Key(b"p" * 32), "sub-aaaaaaaaaa", "ses-bbbbbbbbbb")
EXPLICIT, BIG, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
JPEG, LOSSLESS, LS, LS_NEAR, J2K, J2K_LOSSY = (
    f"1.2.840.10008.1.2.4.{n}" for n in (50, 70, 80, 81, 90, 91)
)
TEXT = b"Mrs Ostrander"
SHAPE = (12, 16)
RAMP = np.arange(64 * 64).reshape(64, 64) * 7919
quick = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def as_bytes(ds, **how):
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True, **how)
    return out.getvalue()


def scrubbed(ds):
    return pydicom.dcmread(io.BytesIO(scrub_bytes(as_bytes(ds), *WHO)))


def image(values, stored=12, high=None, **changes):
    """An image with these cells; ``values`` are as they are in the file."""
    signed = values.dtype.kind == "i"
    return mr(
        1, Rows=values.shape[0], Columns=values.shape[1], BitsAllocated=8 * values.itemsize,
        BitsStored=stored, HighBit=stored - 1 if high is None else high,
        PixelRepresentation=int(signed), PixelData=values.tobytes(), **changes,
    )  # fmt: skip


@st.composite
def hidden(draw):
    """Stored pixels without and with an overlay in unused bits, the layout, whether they differ."""
    allocated = draw(st.sampled_from([8, 16, 32]))
    stored = draw(st.integers(1, allocated))
    high = draw(st.integers(stored - 1, allocated - 1))
    signed = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 99)))
    ones = 1 << stored
    pixels = random.integers(0, ones, SHAPE) - (ones // 2 if signed else 0)
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    plain = (pixels << (high + 1 - stored)).astype(kind)
    used = (ones - 1) << (high + 1 - stored)
    other = ~used & ((1 << allocated) - 1)
    overlay = random.integers(0, 2, SHAPE) * (random.integers(0, 1 << allocated) & other)
    raw = plain.view(f"<u{allocated // 8}").astype(np.int64)
    overlaid = (raw & used | overlay).astype(f"<u{allocated // 8}").view(kind)
    return plain, overlaid, cells(allocated, stored, high, signed), bool((overlay & other).any())


@quick
@given(hidden(), st.booleans())
def test_unused_bits_are_cleared_and_stored_bits_are_unchanged(case, little):
    plain, overlaid, layout, has_overlay = case
    order = "<" if little else ">"
    out = layout.clear(overlaid.astype(overlaid.dtype.newbyteorder(order)).tobytes(), little)
    read = np.frombuffer(out, plain.dtype.newbyteorder(order)).reshape(SHAPE)
    if has_overlay:
        assert (read == plain).all()
    else:
        assert (read == overlaid).all()
    written = plain.astype(plain.dtype.newbyteorder(order)).tobytes()
    assert layout.clear(written, little) == written  # a clean image stays bit for bit


@quick
@given(hidden())
def test_the_scrub_clears_unused_bits_in_a_file(case):
    plain, overlaid, layout, has_overlay = case
    out = scrubbed(image(overlaid, layout.stored, layout.high))
    assert out.PixelData.rstrip(b"\0") == (plain if has_overlay else overlaid).tobytes().rstrip(
        b"\0"
    )


def test_signed_pixels_without_sign_extension_are_unchanged():
    raw = np.arange(4096, dtype="<u2")[: 12 * 16].reshape(SHAPE) + 2000  # 12 bits, signed
    assert scrubbed(image(raw.view("<i2"))).PixelData == raw.tobytes()


def test_padding_is_cleared_as_the_pixels_are():
    values = np.full(SHAPE, -32768, "<i2")
    values[2:8, 3:9] = np.arange(36).reshape(6, 6) - 18
    out = scrubbed(image(values, 12, PixelPaddingValue=-32768))
    assert out.PixelPaddingValue == 0
    assert (out.pixel_array == np.where(values == -32768, 0, values)).all()
    fits = np.where(values == -32768, -2000, values).astype("<i2")
    out = scrubbed(image(fits, 12, PixelPaddingValue=-2000))
    assert out.PixelPaddingValue == -2000
    assert out.PixelData == fits.tobytes()


def test_letters_drawn_with_the_padding_value_are_cleared():
    values = np.zeros(SHAPE, "<u2")
    values[4:8, 2:12:2] |= 0x8000
    out = scrubbed(image(values, 12, PixelPaddingValue=0x8000))
    assert not any(out.PixelData)


@pytest.mark.parametrize("uid", [RLE, LS, J2K])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_the_stored_ones_are_cleared_in_compressed_pixels(uid, signed):
    plain = (RAMP % 2048).astype("<i2" if signed else "<u2")
    overlaid = (plain.view("<u2") | np.where(plain % 3, 0x4000, 0)).astype("<u2").view(plain.dtype)
    out = scrubbed(with_bits_stored(compressed(overlaid, uid, stored=16), 12))
    assert out.file_meta.TransferSyntaxUID == uid
    with_bits_stored(out, 16)  # so that no reader masks them
    assert (out.pixel_array == plain).all()
    whole = scrubbed(with_bits_stored(compressed(plain, uid, stored=16), 12))
    assert (whole.pixel_array == plain).all()


def test_pixels_that_cannot_be_compressed_again_are_withheld():
    plain = (RAMP % 4096).astype("<u2")
    with pytest.raises(WithheldError, match="text may be burned in"):
        scrubbed(with_bits_stored(compressed(plain | 0x8000, LOSSLESS, stored=16), 12))
    out = scrubbed(with_bits_stored(compressed(plain, LOSSLESS, stored=16), 12))
    assert (out.pixel_array == plain).all()


def with_bits_stored(ds, stored):
    """The data set with another number of bits stored in its header."""
    ds.BitsStored, ds.HighBit = stored, stored - 1
    return ds


def compressed(values, uid, stored=12):
    ds = image(values, stored)
    if uid == JPEG:
        out = io.BytesIO()
        PIL.Image.fromarray(values).save(out, "jpeg")
        ds.PixelData = encapsulate([out.getvalue()])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = uid
    elif uid == LOSSLESS:
        ds.PixelData = encapsulate([jpeg_lossless(values)])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = uid
    else:
        more = {LS_NEAR: {"jls_error": 2}, J2K_LOSSY: {"j2k_cr": [4]}}.get(uid, {})
        ds.compress(uid, generate_instance_uid=False, **more)
    ds["PixelData"].is_undefined_length = True
    return ds


def jpeg_lossless(values, bits=16, restart=0):
    """A lossless JPEG stream (T.81 Annex H): prediction from the left, codes of five bits.

    ``restart``: pixels in a restart interval, or 0; whole rows are predicted as a decoder does.
    """
    rows, columns = values.shape
    data, coded, last = b"", "", values.astype(int)
    for n in range(rows * columns):
        y, x = divmod(n, columns)
        fresh = n % restart == 0 if restart else n == 0
        if n and fresh:
            data += packed(coded) + bytes((0xFF, 0xD0 + (n // restart - 1) % 8))
            coded = ""
        before = 1 << (bits - 1) if fresh else last[y, x - 1] if x else last[y - 1, 0]
        step = (last[y, x] - before + 0x8000) % 0x10000 - 0x8000
        size = int(abs(step)).bit_length()
        coded += f"{size:05b}"
        if 0 < size < 16:
            coded += f"{step if step > 0 else step + (1 << size) - 1:0{size}b}"
    data += packed(coded)
    table = bytes([0, 0, 0, 0, 0, 17] + [0] * 11 + list(range(17)))
    frame = struct.pack(">BHHBBBB", bits, rows, columns, 1, 1, 0x11, 0)
    parts = [(0xC3, frame), (0xC4, table), (0xDA, bytes([1, 1, 0, 1, 0, 0]))]
    parts[2:2] = [(0xDD, restart.to_bytes(2))] if restart else []
    return b"\xff\xd8" + b"".join(segment(*part) for part in parts) + data + b"\xff\xd9"


def packed(coded):
    coded += "1" * (-len(coded) % 8)
    return int(coded, 2).to_bytes(len(coded) // 8).replace(b"\xff", b"\xff\0")


def segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


SIMPLE = (RAMP % 4096).astype("<u2")
SYNTAXES = [RLE, JPEG, LOSSLESS, LS, LS_NEAR, J2K, J2K_LOSSY]


def stream_of(uid):
    values = (SIMPLE >> 4).astype("u1") if uid == JPEG else SIMPLE
    ds = compressed(values, uid, 8 if uid == JPEG else 12)
    (stream,) = generate_frames(ds.PixelData, number_of_frames=1)
    return ds, stream


def cleaned(stream, uid):
    (out,) = clean([b"", stream], syntax(uid), 1, 64 * 64, 8 if uid == JPEG else 16)
    return out


def headers(stream, start, last):
    """Offsets of the segments before the first scan or tile; ``start``: offset of the first."""
    offsets, pos = [], start
    while stream[pos : pos + 2] != last:
        offsets.append(pos)
        pos += 2 + struct.unpack_from(">H", stream, pos + 2)[0]
    return [*offsets, pos]


def code_table(which):
    """A Huffman table of some letters, each once."""
    letters = bytes(sorted(set(TEXT)))
    return bytes([which, 0, 0, 0, 0, len(letters)] + [0] * 11) + letters


COMMENTS = [(m, TEXT) for m in (0xFE, *range(0xE0, 0xF0))]
PLANTS = {
    JPEG: [*COMMENTS, (0xCC, TEXT), (0xDC, TEXT), (0xDB, b"\3" + (TEXT * 5)[:64]), (0xC8, TEXT),
           (0xC4, code_table(0x13)), (0xC4, code_table(0x03)), (0xF0, TEXT), (0xFD, TEXT)],
    LOSSLESS: [*COMMENTS, (0xDB, b"\0" + (TEXT * 5)[:64]), (0xDB, b"\x11" + (TEXT * 10)[:128]),
               (0xC4, code_table(0x10)), (0xC4, code_table(0x03)), (0xCC, TEXT)],
    LS: [*COMMENTS, (0xDB, TEXT), (0xC4, TEXT), (0xF8, b"\2\1\1" + TEXT), (0xF8, b"\3\1\1" + TEXT),
         (0xF8, b"\x0d" + TEXT), (0xDC, TEXT), (0xCC, TEXT), (0xF2, TEXT)],
    J2K: [(m, TEXT) for m in (0x63, 0x64, 0x55, 0x57, 0x58, 0x56, 0x59, 0x74, 0x78)]
         + [(0x53, b"\7\0\5\4\4\0\1" + TEXT), (0x5D, b"\7" + TEXT), (0x5E, b"\7\0" + TEXT)],
}  # fmt: skip
PLANTS[LS_NEAR], PLANTS[J2K_LOSSY] = PLANTS[LS], PLANTS[J2K]


@pytest.mark.parametrize("uid", [u for u in SYNTAXES if u != RLE])
def test_segments_that_decoding_does_not_need_are_removed(uid):
    ds, stream = stream_of(uid)
    plain = ds.pixel_array
    own = cleaned(stream, uid)
    jpeg_2000 = uid in (J2K, J2K_LOSSY)
    where = headers(stream, 2, b"\xff\x90" if jpeg_2000 else b"\xff\xda")
    # between all segments; the first of JPEG 2000 must be SIZ
    for at in where[1:] if jpeg_2000 else where:
        for marker, body in PLANTS[uid]:
            planted = stream[:at] + segment(marker, body) + stream[at:]
            assert cleaned(planted, uid) == own, hex(marker)
    # and after the last field of each segment
    for at in where[:-1]:
        marker, length = struct.unpack_from(">HH", stream, at)
        end = at + 2 + length
        longer = stream[at : at + 2] + struct.pack(">H", length + len(TEXT)) + stream[at + 4 : end]
        planted = stream[:at] + longer + TEXT + stream[end:]
        if marker in (0xFFC4, 0xFFDB):  # there the text is read as a further table, or is invalid
            try:
                out = cleaned(planted, uid)
            except DamagedError:
                continue
            assert TEXT not in out
        else:
            assert cleaned(planted, uid) == own, hex(marker)
    ds.PixelData = encapsulate([stream[: where[1]] + segment(0xFE if not jpeg_2000 else 0x64, TEXT)
                                + stream[where[1] :]])  # fmt: skip
    out = scrubbed(ds)
    assert (out.pixel_array == plain).all()


@pytest.mark.parametrize("marker", [0x5F, 0x60, 0x61])
def test_jpeg_2000_segments_that_could_hold_text_are_rejected(marker):
    """Progressions with invalid fields, and packet headers, which cannot be checked."""
    _, stream = stream_of(J2K)
    at = headers(stream, 2, b"\xff\x90")[1]
    with pytest.raises(DamagedError):
        cleaned(stream[:at] + segment(marker, (b"\0" + TEXT * 3)[:35]) + stream[at:], J2K)


def test_a_valid_progression_of_jpeg_2000_is_kept():
    _, stream = stream_of(J2K)
    at = headers(stream, 2, b"\xff\x90")[1]
    progression = segment(0x5F, struct.pack(">BBHBBB", 0, 0, 1, 33, 1, 0))
    assert progression in cleaned(stream[:at] + progression + stream[at:], J2K)


def test_a_table_that_is_redefined_before_its_scan_is_not_kept():
    _, stream = stream_of(LOSSLESS)
    at = stream.index(b"\xff\xc4")
    first = bytes([0, 0, 0, 0, 0, 17] + [0] * 11 + list(range(17))[::-1])
    assert cleaned(stream[:at] + segment(0xC4, first) + stream[at:], LOSSLESS) == cleaned(
        stream, LOSSLESS
    )


@pytest.mark.parametrize("uid", [JPEG, LOSSLESS])
@pytest.mark.parametrize("extra", [TEXT, TEXT * 9 + b"\xff\0" + TEXT, b"\0"])
def test_bytes_after_the_last_pixel_are_removed(uid, extra):
    ds, stream = stream_of(uid)
    own, end = cleaned(stream, uid), stream.rindex(b"\xff\xd9")
    assert cleaned(stream[:end] + extra + stream[end:], uid) == own
    ds.PixelData = encapsulate([own])
    assert (ds.pixel_array == stream_of(uid)[0].pixel_array).all()


@pytest.mark.parametrize("uid", [JPEG, LOSSLESS])
def test_incomplete_pixels_and_additional_scans_are_rejected(uid):
    _, stream = stream_of(uid)
    end = stream.rindex(b"\xff\xd9")
    for planted in (
        stream[: end - 40] + stream[end:],
        stream[:end] + b"\xff\xd0" + TEXT + stream[end:],  # a restart that is not announced
        stream[:end] + stream[stream.index(b"\xff\xda") :],  # a second scan
    ):
        with pytest.raises(DamagedError):
            cleaned(planted, uid)


@pytest.mark.parametrize("uid", [LS, LS_NEAR])
def test_bytes_after_the_last_pixel_of_jpeg_ls_are_rejected(uid):
    _, stream = stream_of(uid)
    end = stream.rindex(b"\xff\xd9")
    for planted in (stream[:end] + TEXT + stream[end:], stream[: end // 2] + stream[end:]):
        with pytest.raises(DamagedError):
            cleaned(planted, uid)


@pytest.mark.parametrize("uid", [u for u in SYNTAXES if u != RLE])
def test_a_stream_with_another_size_than_the_header_is_withheld(uid):
    ds, _ = stream_of(uid)
    for rows in (32, 65, 128):
        ds.Rows = rows
        with pytest.raises(WithheldError):
            scrub_bytes(as_bytes(ds), *WHO)


@pytest.mark.parametrize("restart", [64, 100, 4096])
def test_restart_intervals_end_after_their_last_pixel(restart):
    stream = jpeg_lossless(SIMPLE, restart=restart)
    assert cleaned(stream, LOSSLESS) == stream
    ds = compressed(SIMPLE, LOSSLESS)
    ds.PixelData = encapsulate([stream])
    if restart == 64:  # by rows, as GDCM expects
        assert (ds.pixel_array == SIMPLE).all()
    at = stream.find(b"\xff\xd0")
    if at > 0:
        planted = stream[:at] + TEXT + stream[at:]
        assert cleaned(planted, LOSSLESS) == stream


def test_a_code_table_of_letters_is_rejected():
    _, stream = stream_of(LOSSLESS)
    at = stream.index(b"\xff\xc4")
    end = at + 2 + struct.unpack_from(">H", stream, at + 2)[0]
    with pytest.raises(DamagedError):
        cleaned(stream[:at] + segment(0xC4, code_table(0)) + stream[end:], LOSSLESS)


def runs(values):
    """A plane of bytes as literal runs."""
    rows = [values[i : i + 64] for i in range(0, len(values), 64)]
    return b"".join(bytes([len(row) - 1]) + row for row in rows)


def rle(*segments):
    starts, at = [], 64
    for one in segments:
        starts.append(at)
        at += len(one)
    head = struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts)))
    return head + b"".join(segments)


def test_run_length_segments_are_cut_to_the_number_of_pixels():
    high, low = (runs(SIMPLE.astype(f"{o}u2").tobytes()[0::2]) for o in "><")
    own = cleaned(rle(high, low), RLE)
    text = TEXT + b" "
    literal = bytes([len(text) - 1]) + text
    last = high[:-65] + bytes([64 + len(text) - 1]) + high[-64:] + text
    for planted in (
        rle(high + text, low),
        rle(high, low + literal),
        rle(high, low, runs((TEXT * 400)[:4096])),
        rle(last, low),
        rle(b"\x80" * 9 + high, low + b"\x80"),
        rle(high, low) + text,
    ):
        assert cleaned(planted, RLE) == own
    ds = compressed(SIMPLE, RLE)
    ds.PixelData = encapsulate([rle(last, low)])
    assert (scrubbed(ds).pixel_array == SIMPLE).all()
