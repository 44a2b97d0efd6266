"""A tiny data set in each layout, written as it is on disk."""

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@dataclass(frozen=True)
class Expected:
    """What a tree holds: samples by modality and by the layout's own split, and what has to be said of it."""

    modalities: dict
    splits: dict = field(default_factory=dict)
    forms: dict = field(default_factory=dict)
    captions: tuple = ()


def pixels(number, height=48, width=64):
    """An image (H, W, 3) that no other number has."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image_bytes(array, kind="PNG", **options):
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, kind, **options)
    return buffer.getvalue()


def save(path, data):
    """Write bytes, text, or an array as the image that the path's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        path.write_text(data, "utf-8")
    elif isinstance(data, bytes):
        path.write_bytes(data)
    else:
        Image.fromarray(data).save(path)
    return path


def folder(root: Path) -> Expected:
    """Nested folders: images with captions beside them, depth and classes in folders of their own; one of all lacks."""
    for i in range(4):
        place = f"scene{i // 2}"
        save(root / place / "images" / f"{i}.jpg", image_bytes(pixels(i), "JPEG"))
        save(root / place / "images" / f"{i}.txt", f"caption {i}\n")
        if i != 3:
            save(root / place / "depth" / f"{i}.png", np.full((48, 64), 1000 + i, np.uint16))
            save(root / place / "semseg" / f"{i}.png", np.full((48, 64), i, np.uint8))
    return Expected(
        {"rgb": 4, "caption": 4, "depth": 3, "semseg": 3},
        forms={"depth": "millimeters"},
        captions=tuple(f"caption {i}" for i in range(4)),
    )


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def webdataset(root: Path) -> Expected:
    """As img2dataset writes it: image, text, and JSON that holds the text too."""
    for shard, split in enumerate(("train", "train", "val")):
        members = []
        for i in range(2 * shard, 2 * shard + 2):
            about = json.dumps({"caption": f"caption {i}", "url": "x", "width": 64}).encode()
            members += [(f"{i:09d}.jpg", image_bytes(pixels(i), "JPEG"))]
            members += [(f"{i:09d}.json", about), (f"{i:09d}.txt", f"caption {i}".encode())]
        write_tar(root / f"{split}-{shard:05d}.tar", members)
    captions = tuple(f"caption {i}" for i in range(6))
    return Expected({"rgb": 6, "caption": 6}, {"train": 4, "validation": 2}, captions=captions)


def parquet(root: Path) -> Expected:
    """As the hub has it: images as structs, labels whose names are in the schema, several row groups."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    (root / "data").mkdir(parents=True)
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        images = [{"bytes": image_bytes(pixels(i)), "path": f"{i}.png"} for i in numbers]
        table = pa.table({"image": images, "label": [i % 2 for i in numbers]}, schema=schema)
        pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
    captions = tuple("cat" if i % 2 == 0 else "dog" for i in range(7))
    return Expected({"rgb": 7, "caption": 7}, {"train": 5, "test": 2}, captions=captions)


def rle(mask):
    """Uncompressed run lengths, as COCO's crowds have them."""
    flat, counts, value = mask.T.ravel(), [], False
    while flat.size:
        length = int(np.argmin(flat == value)) if not (flat == value).all() else flat.size
        counts.append(length)
        flat, value = flat[length:], not value
    return {"counts": counts, "size": list(mask.shape)}


def coco(root: Path, panoptic=False) -> Expected:
    """Two splits with instances and captions; an image without objects, and a crowd."""
    categories = [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]
    for split, numbers in (("train2017", range(3)), ("val2017", range(3, 5))):
        images, instances, captions, segments = [], [], [], []
        for i in numbers:
            images.append({"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 64})
            save(root / split / f"{i:012d}.jpg", image_bytes(pixels(i), "JPEG"))
            captions += [{"image_id": i, "id": 10 * i + n, "caption": f"caption {i}, {n}"} for n in range(2)]
            if i == 2:
                continue
            about = {"image_id": i, "category_id": 3, "iscrowd": 0, "area": 100.0}
            square = [[8, 8, 40, 8, 40, 40, 8, 40]]
            instances.append({**about, "id": 100 + i, "bbox": [8, 8, 32, 32], "segmentation": square})
            crowd = np.zeros((48, 64), bool)
            crowd[:, 56:] = True
            about |= {"category_id": 18, "iscrowd": 1}
            instances.append({**about, "id": 200 + i, "bbox": [56, 0, 8, 48], "segmentation": rle(crowd)})
            if panoptic:
                ids = np.zeros((48, 64, 3), np.uint8)
                ids[:24], ids[24:40] = (5, 1, 0), (0, 0, 1)
                save(root / "annotations" / f"panoptic_{split}" / f"{i:012d}.png", ids)
                found = [{"id": 261, "category_id": 18}, {"id": 65536, "category_id": 3}]
                segments.append({"image_id": i, "file_name": f"{i:012d}.png", "segments_info": found})
        files = {"instances": instances, "captions": captions} | ({"panoptic": segments} if panoptic else {})
        for kind, annotations in files.items():
            content = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations}
            content |= {"categories": categories} if kind != "captions" else {}
            save(root / "annotations" / f"{kind}_{split}.json", json.dumps(content))
    captions = tuple(f"caption {i}, 0" for i in range(5))
    return Expected(
        {"rgb": 5, "caption": 5, "boxes": 5, "semseg": 4 if panoptic else 5},
        {"train": 3, "validation": 2},
        captions=captions,
    )


def classes(root: Path) -> Expected:
    """As ImageNet's: folders of WordNet ids, and the file that names them."""
    for split, count in (("train", 2), ("val", 1)):
        for c, number in enumerate(("n01440764", "n02084071")):
            for i in range(count):
                image = pixels(100 * c + 10 * count + i)
                save(root / split / number / f"{number}_{i}.JPEG", image_bytes(image, "JPEG"))
    save(root / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn02084071 dog, domestic dog\n")
    return Expected({"rgb": 6, "caption": 6}, {"train": 4, "validation": 2}, captions=("tench", "dog"))


TREES = {"folder": folder, "webdataset": webdataset, "parquet": parquet, "coco": coco, "classes": classes}
