"""Parquet files with images in them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_trees import image_bytes, pixels, save

from open4m.datasets.layouts.base import Wanted
from open4m.datasets.layouts.parquet import ROWS, Parquet
from open4m.datasets.source import Source
from open4m.types import Open4MError

PNG = image_bytes(pixels(0))


def samples(root, table, **wanted):
    pq.write_table(table, root / "x.parquet")
    layout = Parquet(Source(str(root)), Wanted(**wanted))
    places = {}
    for part in layout.parts():
        places.setdefault(part.sample, {}).setdefault(part.modality, []).append(part.place)
    return [layout.read(place, list(place)) for _, place in sorted(places.items())]


def test_plain_bytes_and_structs_are_images(tmp_path):
    for column in (pa.array([PNG]), pa.array([PNG], pa.large_binary()), pa.array([{"bytes": PNG, "path": "a"}])):
        assert samples(tmp_path, pa.table({"picture_of_it": column})) == [{"rgb": PNG}]


def test_columns_are_read_in_each_way_that_arrow_stores_them(tmp_path):
    texts = pa.array(["a"])
    for column in (texts, texts.cast(pa.large_string()), texts.dictionary_encode(), texts.cast(pa.string_view())):
        assert samples(tmp_path, pa.table({"image": [PNG], "text": column})) == [{"rgb": PNG, "caption": "a"}]


def test_labels_that_are_no_numbers_are_refused(tmp_path):
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table({"image": [PNG], "label": ["cat"]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pytest.raises(Open4MError, match="column label: expected the number of a class, got 'cat'"):
        samples(tmp_path, table)


def test_columns_are_known_by_name_or_named(tmp_path):
    table = pa.table({"image": [PNG], "depth_map": [b"d"], "text": ["a"], "alt": ["b"], "other": [b"o"]})
    assert samples(tmp_path, table) == [{"rgb": PNG, "depth": b"d", "caption": "a"}]
    where = {"rgb": "other", "caption": "alt"}
    assert samples(tmp_path, table, where=where) == [{"rgb": b"o", "depth": b"d", "caption": "b"}]
    with pytest.raises(Open4MError, match="no column 'words'; it has image, depth_map, text"):
        samples(tmp_path, table, where={"caption": "words"})


def test_lists_of_captions_missing_values_and_boxes(tmp_path):
    boxes = [[{"box": [0.0, 0.0, 0.5, 1.0], "label": "cat"}], None]
    table = pa.table({"image": [PNG, PNG], "captions": [["a", "b"], None], "boxes": boxes})
    first, second = samples(tmp_path, table, captions="join")
    assert first["caption"] == "a b"
    assert first["boxes"].labels == ("cat",)
    assert (second["caption"], second["boxes"]) == (None, None)


def test_an_image_that_is_only_a_path_is_refused(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pytest.raises(Open4MError, match="only the path of a file"):
        samples(tmp_path, pa.table({"image": pa.array([{"bytes": None, "path": "/etc/passwd"}], kind)}))


def test_rows_are_found_in_any_order(tmp_path):
    count = 2 * ROWS + 5
    pq.write_table(
        pa.table({"image": [b"%d" % i for i in range(count)]}), tmp_path / "x.parquet", row_group_size=ROWS + 3
    )
    layout = Parquet(Source(str(tmp_path)), Wanted())
    places = [part.place for part in layout.parts()]
    order = [*range(0, count, 7), *range(count - 1, 0, -11), 3, 3, 0]
    assert [layout.read({"rgb": [places[i]]}, ["rgb"])["rgb"] for i in order] == [b"%d" % i for i in order]


@pytest.mark.parametrize("metadata", [b"", b"[]", b'{"info": 3}', json.dumps({"info": {"features": []}}).encode()])
def test_metadata_of_another_kind_are_no_labels(tmp_path, metadata):
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata={"huggingface": metadata})
    assert samples(tmp_path, pa.table({"image": [PNG], "label": [0]}, schema=schema)) == [{"rgb": PNG}]


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    save(tmp_path / "x.parquet", b"PAR1 and nothing else PAR1")
    with pytest.raises(Open4MError, match=r"x\.parquet: not a readable Parquet file"):
        Parquet.fits(Source(str(tmp_path)), Wanted())
