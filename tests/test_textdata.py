# SPDX-License-Identifier: Apache-2.0
"""Texts, vocabularies and streams: every character occurs once, in order, with the next one as its target."""

import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest

from bptt.textdata import HELD_OUT, Streams, Vocabulary, default_text, read_text, split_tail


def test_default_text_is_the_manual_in_alphabetical_order():
    text = default_text()
    assert text == default_text()
    assert 300_000 < len(text) < 1_000_000
    places = [text.index(f'The "{name}" statement\n') for name in ("assert", "with", "yield")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfabc", "abc"),
        ("naïve — 漢字 😀".encode(), "naïve — 漢字 😀"),
        (b"", ""),
    ],
)
def test_read_text_normalises_line_ends_and_drops_the_mark(tmp_path, content, text):
    path = tmp_path / "text"
    path.write_bytes(content)
    assert read_text(path) == text


def test_read_text_names_the_byte_that_is_not_utf8(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"byte 0xff at position 3, expected UTF-8"):
        read_text(path)
    with pytest.raises(OSError, match=r"cannot read .* expected a UTF-8 text file"):
        read_text(tmp_path)


WESTERN = "naïve café, déjà vu\n" * 50
QUOTED = "He said “naïve” — twice…\n" * 50
RUSSIAN = "Привет, мир\n" * 50


@pytest.mark.skipif(shutil.which("iconv") is None, reason="runs the advice")
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (WESTERN.encode("latin-1"), WESTERN),
        (QUOTED.encode("cp1252"), QUOTED),
        (QUOTED.encode("utf-16"), QUOTED),
        (b"\xfe\xff" + QUOTED.encode("utf-16-be"), QUOTED),
        (b"\xff\xfe\0\0" + QUOTED.encode("utf-32-le"), QUOTED),
        (b"\0\0\xfe\xff" + QUOTED.encode("utf-32-be"), QUOTED),
        (QUOTED.encode("utf-16-le"), QUOTED),
        (QUOTED.encode("utf-16-be"), QUOTED),
        (RUSSIAN.encode("utf-16"), RUSSIAN),
        (b"x" * 100_000 + WESTERN.encode("latin-1"), "x" * 100_000 + WESTERN),
        (RUSSIAN.encode() + b"\xff" + RUSSIAN.encode(), RUSSIAN * 2),
    ],
)
def test_the_advice_for_other_encodings_works(tmp_path, content, text):
    path = tmp_path / "it's a text"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected UTF-8; perhaps: iconv ") as caught:
        read_text(path)
    command = str(caught.value).split("perhaps: ")[1]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, timeout=60, check=False)  # iconv -c ends with 1
    assert read_text(tmp_path / "as-utf8.txt") == text


@pytest.mark.parametrize("content", [RUSSIAN.encode("koi8-r"), bytes(range(256)) * 50, b"\x81" + b"a" * 100])
def test_no_encoding_is_named_where_there_is_no_telling(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match="iconv -f ITS_ENCODING -t utf-8"):
        read_text(tmp_path / "text")


def test_a_vocabulary_takes_little_memory_beside_a_long_text():
    text = "ab\n" * 3_000_000
    tracemalloc.start()
    try:
        vocabulary = Vocabulary.of(text)
        ids = vocabulary.encode(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ids.nbytes == len(text)
    assert np.array_equal(ids[:6], [1, 2, 0, 1, 2, 0])
    assert np.array_equal(ids, np.tile(ids[:3], 3_000_000))
    # a chunk of 2**20 characters: 4 bytes each as text, code point, and number, twice, and some single bytes
    assert peak < len(text) + 2**20 * 24


@pytest.mark.parametrize(("size", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (70_000, np.uint32)])
def test_vocabulary_numbers_by_code_point_in_the_smallest_dtype(size, dtype):
    characters = [chr(0x10000 + i) for i in range(size)]
    vocabulary = Vocabulary.of("".join(reversed(characters)))
    assert len(vocabulary) == size
    assert vocabulary.characters == "".join(characters)
    ids = vocabulary.encode(vocabulary.characters)
    assert ids.dtype == dtype
    assert np.array_equal(ids, np.arange(size))
    assert vocabulary.decode(ids.tolist()) == vocabulary.characters


def test_vocabulary_keeps_a_given_order():
    assert Vocabulary("ca").encode("aac").tolist() == [1, 1, 0]
    assert Vocabulary("ca").encode("").tolist() == []


def test_vocabulary_names_unknown_characters():
    vocabulary = Vocabulary("ac")
    with pytest.raises(ValueError, match=r"^prompt has '\\n' 'b' '漢', expected only the 2 characters"):
        vocabulary.encode("ab漢\nb", "prompt")
    with pytest.raises(ValueError, match=r"'\\udcff'"):  # how the command line delivers the byte 0xff
        vocabulary.encode("\udcff")


@pytest.mark.parametrize("characters", ["", "aba"])
def test_vocabulary_refuses_what_is_no_numbering(characters):
    with pytest.raises(ValueError, match="expected distinct ones"):
        Vocabulary(characters)


@pytest.mark.parametrize("characters", [None, 5, ["a", "b"], b"ab", {"a": 0}])
def test_vocabulary_refuses_what_is_no_text(characters):
    with pytest.raises(TypeError, match="expected str"):
        Vocabulary(characters)


def test_split_tail_holds_out_the_end():
    ids = np.arange(1005, dtype=np.uint16)
    head, tail = split_tail(ids)
    assert len(tail) == round(1005 * HELD_OUT)
    assert np.array_equal(np.concatenate([head, tail]), ids)
    assert np.shares_memory(head, ids)


@pytest.mark.parametrize(("N", "B", "T"), [(2, 1, 1), (101, 1, 10), (100, 3, 8), (97, 4, 24), (1000, 7, 141)])
def test_streams_are_continuous_and_complete(N, B, T):
    ids = np.random.default_rng(N).integers(0, 50, N).astype(np.uint8)
    streams = Streams(ids, B, T)
    batches = list(streams)
    assert len(batches) == len(streams)
    assert all(x.shape == y.shape == (T, B) for x, y in batches[:-1])
    assert all(a.dtype == np.int64 and a.flags.c_contiguous for batch in batches for a in batch)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    length = (N - 1) // B
    for b in range(B):  # each column is one piece of the text; y is the same piece one character later
        assert np.array_equal(x[:, b], ids[b * length : (b + 1) * length])
        assert np.array_equal(y[:, b], ids[b * length + 1 : (b + 1) * length + 1])
    for batch, again in zip(batches, streams, strict=True):  # the second pass equals the first
        assert np.array_equal(batch, again)


@pytest.mark.parametrize(("N", "B", "T"), [(0, 1, 1), (1, 1, 1), (64, 8, 8), (100, 0, 4), (100, 4, 0), (100, -1, 4)])
def test_streams_refuse_a_text_that_is_too_short(N, B, T):
    with pytest.raises(ValueError, match=r"Streams: .* expected at least"):
        Streams(np.zeros(N, np.uint8), B, T)
