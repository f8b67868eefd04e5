"""Files written page by page are those that every reader of Parquet knows, and their metadata is true."""

import hashlib
import io
import zlib
from unittest import mock

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_tools.store import list_column
from trajectory_tools.store.list_column import Cut, ListColumn
from trajectory_tools.store.table_file import RowGroup, TableFile
from trajectory_tools.store.thrift import decode, encode

TYPES = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64()}
CODECS = ("none", "zstd")


def schema_of(value_type):
    lists = pa.list_(pa.field("element", value_type, nullable=False))
    name = pa.field("name", pa.dictionary(pa.int32(), pa.string()), nullable=False)
    return pa.schema([pa.field("step", pa.int64(), nullable=False), name, ("a", lists), ("b", lists)])


def cuts_of(rows, dtype, sizes):
    """The rows, cut into pieces of these sizes."""
    cuts, start = [], 0
    for size in [*sizes, len(rows)]:
        some = rows[start : start + size]
        start += len(some)
        values = np.array([value for row in some if row is not None for value in row], dtype)
        lengths = np.array([len(row or ()) for row in some], np.int64)
        cuts.append(Cut(values, lengths, np.array([row is None for row in some], bool)))
    return cuts


def write(path, groups, dtype, codec, sizes=()):
    """``groups``: lists of rows (step, name, a, b); what ``TableFile.close`` says of the file."""
    schema = schema_of(TYPES[dtype])
    file = TableFile(path, schema, codec)
    for rows in groups:
        steps, names, a, b = zip(*rows, strict=True)
        numbers = {
            "step": pa.array(steps, pa.int64()),
            "name": pa.array(names, pa.string()).dictionary_encode(),
        }
        lists = {k: ListColumn(TYPES[dtype], cuts_of(v, dtype, sizes)) for k, v in (("a", a), ("b", b))}
        file.write(RowGroup(numbers, lists).encoded(schema, codec))
    return file.close({"who": "a test"})


def written_by_pyarrow(path, groups, dtype):
    """The same rows, by pyarrow's own hand."""
    schema = schema_of(TYPES[dtype])
    with pq.ParquetWriter(path, schema) as writer:
        for rows in groups:
            columns = [pa.array(c, field.type) for c, field in zip(zip(*rows, strict=True), schema, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))


def rows_strategy(dtype):
    width = int(dtype[-2:])
    value = st.floats(width=width) if dtype != "int64" else st.integers(-(2**63), 2**63 - 1)
    values = st.none() | st.lists(value, max_size=300) | st.lists(value, max_size=2)
    row = st.tuples(st.integers(0, 2**40), st.sampled_from(["w", "b", "ü.weight"]), values, values)
    return st.lists(st.lists(row, min_size=1, max_size=12), min_size=1, max_size=4)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_file_holds_what_pyarrows_own_does(tmp_path_factory, dtype, codec, data):
    groups = data.draw(rows_strategy(dtype))
    sizes = data.draw(st.lists(st.integers(0, 5), max_size=4))
    page_values = data.draw(st.sampled_from([1, 100, 2**20]))
    folder = tmp_path_factory.mktemp("twins")
    with mock.patch.object(list_column, "PAGE_VALUES", page_values):
        write(folder / "ours.parquet", groups, dtype, codec, sizes)
    written_by_pyarrow(folder / "theirs.parquet", groups, dtype)
    ours, theirs = (
        pq.ParquetFile(folder / f"{n}.parquet", page_checksum_verification=True) for n in ("ours", "theirs")
    )
    assert ours.schema_arrow == theirs.schema_arrow == schema_of(TYPES[dtype])
    assert ours.schema.equals(theirs.schema)
    assert ours.metadata.metadata[b"who"] == b"a test"
    assert ours.num_row_groups == len(groups)
    for i in range(len(groups)):
        one, other = ours.metadata.row_group(i), theirs.metadata.row_group(i)
        assert one.num_rows == other.num_rows
        assert [one.column(c).num_values for c in range(4)] == [other.column(c).num_values for c in range(4)]
        a, b = ours.read_row_group(i), theirs.read_row_group(i)
        a.validate(full=True)
        for name in ("a", "b"):  # NaN is no equal of itself, so by the bits
            mine, his = (t.column(name).combine_chunks() for t in (a, b))
            assert mine.is_null().equals(his.is_null())
            assert mine.value_lengths().equals(his.value_lengths())
            assert mine.flatten().to_numpy().tobytes() == his.flatten().to_numpy().tobytes()
        assert a.select(["step", "name"]).to_pylist() == b.select(["step", "name"]).to_pylist()


@pytest.mark.parametrize("codec", CODECS)
def test_duckdb_reads_it_too_and_any_one_column_alone(tmp_path, codec):
    generator = np.random.default_rng(0)
    groups = [
        [(g * 10 + i, "wb"[i % 2], generator.normal(size=50 * i).tolist(), None if i % 3 else [0.5]) for i in range(7)]
        for g in range(3)
    ]
    path = tmp_path / "x.parquet"
    write(path, groups, "float64", codec)
    rows = [row for group in groups for row in group]
    assert duckdb.sql(f"select step, name, a, b from '{path}' order by step").fetchall() == rows
    for i, name in enumerate(("step", "name", "a", "b")):
        assert pq.read_table(path, columns=[name]).column(name).to_pylist() == [row[i] for row in rows]
        assert duckdb.sql(f"select {name} from '{path}' order by step").fetchall() == [(row[i],) for row in rows]
    assert duckdb.sql(f"select sum(len(a)), count(b) from '{path}' where step >= 10").fetchall() == [(2100, 6)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_column_of_many_pages(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(list_column, "PAGE_VALUES", 100)
    values = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    rows = [(i, "w", values[i].tolist(), []) for i in range(40)]
    path = tmp_path / "x.parquet"
    write(path, [rows], "float32", codec, sizes=[1] * 40)
    column = ListColumn(pa.float32(), cuts_of([row[2] for row in rows], "float32", [1] * 40))
    assert len(list(column.pages(compressed=False))) == 14  # of three rows each, and of one
    file = pq.ParquetFile(path, page_checksum_verification=True)
    np.testing.assert_array_equal(np.array(file.read().column("a").to_pylist(), np.float32), values)
    assert len(duckdb.sql(f"select a from '{path}'").fetchall()) == 40


INT = np.array([1, 2], np.int64)
NOT_NULL = np.zeros(2, bool)


@pytest.mark.parametrize(
    "cut",
    [
        Cut(np.zeros(4), INT, NOT_NULL),
        Cut(np.zeros(2), INT, NOT_NULL),
        Cut(np.zeros(3), INT, np.array([False, True])),
        Cut(np.zeros(3), INT, np.zeros(3, bool)),
        Cut(np.zeros(1), np.array([1]), np.array([False])),
    ],
)
def test_lists_that_fit_neither_their_lengths_nor_the_rows_are_refused(tmp_path, cut):
    """They would be read as other lists than they are, with checksums that hold."""
    schema = schema_of(pa.float64())
    file = TableFile(tmp_path / "x.parquet", schema, "none")
    good = ListColumn(pa.float64(), [Cut(np.zeros(3), INT, NOT_NULL)])
    numbers = {"step": pa.array([0, 1]), "name": pa.array(["w", "w"]).dictionary_encode()}
    file.write(RowGroup(numbers, {"a": good, "b": good}).encoded(schema, "none"))
    with pytest.raises(ValueError, match="do not fit"):
        file.write(RowGroup(numbers, {"a": good, "b": ListColumn(pa.float64(), [cut])}).encoded(schema, "none"))
    file.drop()


def test_what_the_metadata_says_is_so(tmp_path):
    """Sizes and encodings, and that nothing is said of the pages that are passed over."""
    path = tmp_path / "x.parquet"
    rows = [(i, "w", [0.0] * 1000, [1.0] * 500) for i in range(20)]  # zeros are not split by byte
    size, sha256, crc = write(path, [rows, rows], "float32", "zstd")
    content = path.read_bytes()
    assert (size, sha256) == (len(content), hashlib.sha256(content).hexdigest())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    assert crc == zlib.crc32(content[-footer:])
    metadata = pq.read_metadata(path)
    end = 4  # after the magic number
    for i in range(2):
        group = metadata.row_group(i)
        assert group.total_byte_size == sum(group.column(c).total_uncompressed_size for c in range(4))
        for c, numel, encodings in ((2, 20_000, ("PLAIN", "RLE")), (3, 10_000, ("RLE", "BYTE_STREAM_SPLIT"))):
            column = group.column(c)
            assert column.encodings == encodings
            assert column.statistics is None
            assert numel * 4 < column.total_uncompressed_size < numel * 4 + 300
            assert column.total_compressed_size < 1000  # of constants
            assert column.data_page_offset == end
            end = column.data_page_offset + column.total_compressed_size
        assert group.column(0).statistics.max == 19
    for i in range(2):  # and then the keys
        group = metadata.row_group(i)
        assert end <= group.column(0).data_page_offset
        assert group.column(1).dictionary_page_offset < group.column(1).data_page_offset < len(content) - footer


def test_a_bit_that_flips_anywhere_in_a_page_is_found(tmp_path):
    path = tmp_path / "x.parquet"
    write(path, [[(0, "w", [1.0, 2.0, 3.0], [4.0])]], "float32", "none")
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(2)
    (page,) = ListColumn(pa.float32(), cuts_of([[1.0, 2.0, 3.0]], "float32", ())).pages(compressed=False)
    begin, end = column.data_page_offset + len(page.header), column.data_page_offset + column.total_compressed_size
    assert content[begin:end] == b"".join(page.body)
    for at in range(begin, end):
        content[at] ^= 4
        path.write_bytes(content)
        with pytest.raises((OSError, pa.ArrowException)):
            pq.ParquetFile(path, page_checksum_verification=True).read()
        content[at] ^= 4


@pytest.mark.parametrize("codec", CODECS)
def test_pyarrows_own_footer_is_the_same_after_it_was_read_and_written(codec):
    """Structs, lists, every kind of number: in the metadata of a file with many columns and statistics."""
    generator = np.random.default_rng(0)
    columns = {f"c{i}": generator.normal(size=50) for i in range(40)}
    table = pa.table({**columns, "s": ["ü"] * 50, "l": [[1, None]] * 50, "t": pa.array([True, None] * 25)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=20, compression=codec, write_page_index=True)
    content = buffer.getvalue()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    assert encode(decode(footer)) == footer


VALUES = {
    5: st.integers(-(2**31), 2**31 - 1),
    6: st.integers(-(2**63), 2**63 - 1),
    8: st.binary(max_size=200),
}
FIELDS = st.one_of(*(st.tuples(st.just(kind), value) for kind, value in VALUES.items())) | st.booleans().map(
    lambda value: (1 if value else 2, value)
)
LISTS = st.one_of(*(st.tuples(st.just(9), st.tuples(st.just(k), st.lists(v, max_size=20))) for k, v in VALUES.items()))
STRUCTS = st.recursive(
    st.dictionaries(st.integers(1, 500), FIELDS | LISTS, max_size=5),
    lambda inner: st.dictionaries(st.integers(1, 40), st.tuples(st.just(12), inner), max_size=3),
)


@settings(deadline=None)
@given(STRUCTS)
def test_a_struct_comes_back_and_one_cut_short_is_refused(struct):
    data = encode(struct)
    assert decode(data) == struct
    for end in range(len(data)):
        with pytest.raises(ValueError, match="cut short"):
            decode(data[:end])
