"""A tiny tree of each labelled data set, in its format on disk, with examples for train and validation."""

import io
from pathlib import Path

import h5py
import layout_trees
import numpy as np
from layout_trees import image_bytes, pixels, save
from PIL import ExifTags, Image
from scipy.io import savemat

from open4m import modalities
from open4m.datasets.labelled import scenes
from open4m.store.shards import HEADER, write_shard
from open4m.types import Boxes

HEIGHT, WIDTH = 48, 64
TURNED = 6
"""An EXIF orientation: the picture is shown after a quarter turn clockwise."""


def save_array(path, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return save(path, buffer.getvalue())


def save_hdf5(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def turned_jpeg(array, orientation=TURNED):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return image_bytes(array, "JPEG", exif=exif, quality=95)


def depth_map(number):
    """Meters (H, W), no two alike."""
    return (1 + number + np.arange(HEIGHT * WIDTH) / 1000).reshape(HEIGHT, WIDTH)


def normals_map():
    vectors = np.random.default_rng(0).normal((0, 0, 3), 1, (HEIGHT, WIDTH, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def folders(root: Path):
    layout_trees.classes(root)


def coco(root: Path):
    layout_trees.coco(root)


def ade20k(root: Path, count=2):
    for folder, letter in (("training", "train"), ("validation", "val")):
        for i in range(1, count + 1):
            save(root / "images" / folder / f"ADE_{letter}_{i:08d}.jpg", image_bytes(pixels(i), "JPEG"))
            labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 151
            save(root / "annotations" / folder / f"ADE_{letter}_{i:08d}.png", labels.astype(np.uint8))


NYU_TRAIN, NYU_TEST = [3, 1], [2, 4, 5]
"""Numbers of images, from 1, as the file of the splits has them."""


def nyuv2(root: Path, mapping=True):
    """The labelled file, with its axes in reverse, as MATLAB stores them."""
    count = len(NYU_TRAIN) + len(NYU_TEST)
    images = np.stack([pixels(i) for i in range(count)], -1)  # H, W, 3, N in MATLAB
    depths = np.stack([depth_map(i) for i in range(count)], -1).astype(np.float32)
    depths[0, 0] = 0
    labels = (np.arange(HEIGHT * WIDTH * count).reshape(HEIGHT, WIDTH, count) % 895).astype(np.uint16)
    arrays = {"images": images, "depths": depths, "labels": labels}
    save_hdf5(root / "nyu_depth_v2_labeled.mat", **{name: array.T for name, array in arrays.items()})
    columns = {f"{name}Ndxs": np.array([rows]).T for name, rows in (("train", NYU_TRAIN), ("test", NYU_TEST))}
    savemat(root / "splits.mat", columns)
    if mapping:
        names = np.array([f"class {i}" for i in range(1, 41)], object)[None]
        savemat(root / "classMapping40.mat", {"mapClass": np.arange(894)[None] % 40 + 1, "className": names})
    return arrays


DOMAINS = {
    "depth_zbuffer": np.uint16,
    "normal": None,
    "reshading": None,
    "principal_curvature": None,
    "edge_texture": np.uint16,
    "edge_occlusion": np.uint16,
    "keypoints2d": np.uint16,
    "keypoints3d": np.uint16,
}


def taskonomy(root: Path, place="{building}/{domain}", domains=tuple(DOMAINS), buildings=("Hanson", "darden", "ihlen")):
    for number, building in enumerate(buildings):
        for view in range(2):
            for domain in ("rgb", *domains):
                rng = np.random.default_rng(10 * number + view)
                kind = DOMAINS.get(domain)
                shape = (32, 32) if kind else (32, 32, 3)
                values = rng.integers(600, 6000, shape) if kind else rng.integers(0, 255, shape)
                folder = root / place.format(building=building, domain=domain)
                save(folder / f"point_{7 * view}_view_{view}_domain_{domain}.png", values.astype(kind or np.uint8))


HYPERSIM = ("scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n",)


def hypersim(root: Path, kinds=("depth_meters", "normal_cam", "semantic")):
    rows = []
    for scene, split in (("ai_001_001", "train"), ("ai_001_002", "val"), ("ai_002_001", "test")):
        for frame in range(2):
            rows.append(f"{scene},cam_00,{frame},True,,{split}\n")
            inside = root / scene / "images"
            image = image_bytes(pixels(frame), "JPEG")
            save(inside / "scene_cam_00_final_preview" / f"frame.{frame:04d}.tonemap.jpg", image)
            semantic = (np.arange(HEIGHT * WIDTH) % 41).reshape(HEIGHT, WIDTH).astype(np.int16)
            arrays = {
                "depth_meters": depth_map(frame).astype(np.float16),
                "normal_cam": normals_map().astype(np.float16),
                "semantic": np.where(semantic == 0, -1, semantic),
            }
            for kind in kinds:
                folder = inside / "scene_cam_00_geometry_hdf5"
                save_hdf5(folder / f"frame.{frame:04d}.{kind}.hdf5", dataset=arrays[kind])
    rows.append("ai_001_001,cam_00,9,False,people,train\n")
    save(root / "metadata_images_split_scene_v1.csv", "".join((*HYPERSIM, *rows)))


def diode(root: Path, normals=True):
    for split, place in (("train", "indoors"), ("val", "outdoor")):
        for i in range(2):
            folder = root / split / place / f"scene_{i:05d}" / "scan_00003"
            stem = f"{i:05d}_00003_{place}_010_000"
            save(folder / f"{stem}.png", pixels(i))
            save_array(folder / f"{stem}_depth.npy", depth_map(i).astype(np.float32)[..., None])
            mask = np.ones((HEIGHT, WIDTH))
            mask[:, :5] = 0
            save_array(folder / f"{stem}_depth_mask.npy", mask)
            if normals:
                vectors = normals_map()
                vectors[0] = 0
                save_array(folder / f"{stem}_normal.npy", vectors)


def rendered(root: Path):
    scenes.make(root, train=3, validation=2, test=1, image_size=32, seed=5)


CLASSES = {"boxes": ("cat", "dog"), "semseg": ("sky", "road", "tree")}


def shards(root: Path, classes=CLASSES):
    """Raw shards of two splits; the last sample of each has no depth."""
    count = 3
    for split in ("train", "validation"):
        classed = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4
        semseg = np.where(classed == 3, 255, classed).astype(np.uint8)
        corners = [[0.25, 0.5, 0.5, 1.0], [0, 0, 1, 0.25]]
        values = {
            "rgb": [pixels(i) for i in range(count)],
            "semseg": [semseg] * count,
            "boxes": [Boxes(np.array(corners[: i % 3]).reshape(-1, 4), ("dog", "cat")[: i % 3]) for i in range(count)],
            "depth": [depth_map(i).astype(np.float32)[::2, ::2] for i in range(count - 1)] + [None],
        }
        for name, items in values.items():
            modality = modalities.get(name)
            header = {**HEADER, "classes": list(classes[name])} if name in classes else HEADER
            contents = [(f"{i:04d}", None if item is None else modality.write(item)) for i, item in enumerate(items)]
            write_shard(root / split, name, 0, contents, header)


TREES = {
    "ade20k": ade20k,
    "coco": coco,
    "diode": diode,
    "folders": folders,
    "hypersim": hypersim,
    "nyuv2": nyuv2,
    "scenes": rendered,
    "shards": shards,
    "taskonomy": taskonomy,
}
