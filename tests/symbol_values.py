"""Values of modalities that are sequences of symbols, which scenes do not have, as users give them."""

PERSON = {
    "box": [0.25, 0.125, 0.625, 0.875],
    "tokens": [0, 511, 512, 1023, 7, 8, 9, 600],
    "orientation": [1, 0, 0, 0, -1, 0, 0, 0, -1],
    "shape": [-3, 3, 0, 0.25, 0, 0, 0, 0, 0, 1],
    "camera": [0.9, 0.05, 0.25],
}
OBJECT = {"box": [0.125, 0.25, 0.5, 0.75], "tokens": [*range(505, 521)]}
EXAMPLES = {
    "color_palette": [["#ff0080"], ["#000", "#123456", "#fff"], ["#0a0b0c"] * 7],
    "metadata": [{"brightness": 118.2, "original_width": 640}, {"aesthetic_score": 5}, {"n_humans": 0, "entropy": 10}],
    "human_poses": [[PERSON], [], [PERSON, {**PERSON, "order": ["shape", "pose", "camera", "global"]}]],
    "sam_instance": [
        [{"point": [0.25, 0.5], "instances": [OBJECT]}, {"point": [0.75, 0.25], "instances": []}],
        [],
        [{"point": [0.5, 0.5], "instances": [OBJECT, {**OBJECT, "box": [0, 0, 1, 1]}]}],
    ],
}
