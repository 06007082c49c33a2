"""What papers print of the networks of our recipes, typed a second time to hold the recipes against.

The survey: Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks, TPAMI 2021, Tables 5a to 5d;
where it has no row that we know, the README of the first release of its code.
"""

from dataclasses import dataclass

NYUD_MAIN = ("semantic miou", "depth rmse")
PASCAL_FIVE = ("semantic miou", "parts miou", "normals mean", "saliency miou", "edges ods")
PASCAL_SMALL = PASCAL_FIVE[:2] + ("saliency miou",)


@dataclass(frozen=True)
class Printed:
    """A row: scores by ``"task measure"``, gain in percent, parameters in millions, operations in 1e9."""

    scores: dict[str, float]
    gain: float | None = None
    parameters: float | None = None
    flops: float | None = None
    copied: bool = False
    doubted: bool = False


def row(columns: tuple[str, ...], text: str, *, copied: bool = False, doubted: bool = False) -> Printed:
    """A row from its scores, gain, parameters and operations, in this order; a dash where there is none."""
    cells = [None if cell == "-" else float(cell) for cell in text.split()]
    scores = {column: cell for column, cell in zip(columns, cells, strict=False) if cell is not None}
    gain, parameters, flops = cells[len(columns) :]
    return Printed(scores, gain, parameters, flops, copied, doubted)


NYUD = {
    "single_semantic_r50": row(NYUD_MAIN, "43.9 -  0  80 192"),
    "single_depth_r50": row(NYUD_MAIN, "- 0.585  0  80 192"),
    "mtl_r50": row(NYUD_MAIN, "44.4 0.587  0.41  56 133"),
    "mtan_r50": row(NYUD_MAIN, "45.0 0.584  1.32  72 197"),
    "cross_stitch_r50": row(NYUD_MAIN, "44.2 0.570  1.61  80 192", doubted=True),
    "nddr_cnn_r50": row(NYUD_MAIN, "44.2 0.573  1.38  102 207", doubted=True),
    "jtrl_r50": row(NYUD_MAIN, "46.4 0.501  10.02  295 660", copied=True, doubted=True),
    "pap_net_r50": row(NYUD_MAIN, "50.4 0.530  12.10  52 4800", copied=True, doubted=True),
    "pad_net_r50": row(NYUD_MAIN, "50.2 0.582  7.43  52 256", copied=True, doubted=True),
    "mti_net_hrnet18": row(NYUD_MAIN, "38.6 0.593  8.95  27 16", doubted=True),
    "mtl_r50_uncertainty": row(NYUD_MAIN, "- -  -0.23 - -", doubted=True),
    "mtl_r50_dwa": row(NYUD_MAIN, "- -  -0.28 - -", doubted=True),
    "mtl_r50_gradnorm": row(NYUD_MAIN, "- -  1.45 - -", doubted=True),
    "mtl_r50_mgda": row(NYUD_MAIN, "- -  0.02 - -", doubted=True),
    # Scores of the first release; parameters and operations of the survey.
    "single_semantic_hrnet18": row(NYUD_MAIN, "34.5 -  0  8 11", doubted=True),
    "single_depth_hrnet18": row(NYUD_MAIN, "- 0.610  0  8 11", doubted=True),
    "mtl_hrnet18": row(NYUD_MAIN, "33.9 0.610  -0.75  4 6", doubted=True),
    "pad_net_hrnet18": row(NYUD_MAIN, "35.4 0.614  1.13  12 82", doubted=True),
    "pad_net_en_hrnet18": row(NYUD_MAIN, "35.5 0.593  2.90 - -"),
    "mti_net_en_hrnet18": row(NYUD_MAIN, "37.6 0.539  10.32 - -"),
}
PASCAL = {
    "single_semantic_r18": row(PASCAL_FIVE, "66.2 - - - -  0  80 167", doubted=True),
    "single_parts_r18": row(PASCAL_FIVE, "- 59.9 - - -  0  80 167", doubted=True),
    "single_normals_r18": row(PASCAL_FIVE, "- - 13.9 - -  0  80 167", doubted=True),
    "single_saliency_r18": row(PASCAL_FIVE, "- - - 66.3 -  0  80 167", doubted=True),
    "single_edges_r18": row(PASCAL_FIVE, "- - - - 68.8  0  80 167", doubted=True),
    "mtl_r18": row(PASCAL_FIVE, "63.8 58.6 14.9 65.1 69.2  -2.86  35 71", doubted=True),
    "mtan_r18": row(PASCAL_FIVE, "63.7 58.9 14.8 65.4 69.6  -2.39  37 80", doubted=True),
    "cross_stitch_r18": row(PASCAL_FIVE, "66.1 60.6 13.9 66.8 69.9  0.60  79 167", doubted=True),
    "nddr_cnn_r18": row(PASCAL_FIVE, "65.4 60.5 13.9 66.8 69.8  0.39  88 187", doubted=True),
    "mtl_r18_uncertainty": row(PASCAL_FIVE, "65.4 59.2 16.5 65.6 68.6  -4.60 - -", doubted=True),
    "mtl_r18_dwa": row(PASCAL_FIVE, "63.4 58.9 14.9 65.1 69.1  -2.94 - -", doubted=True),
    "mtl_r18_gradnorm": row(PASCAL_FIVE, "64.7 59.0 15.4 64.5 67.0  -3.97 - -", doubted=True),
    "mtl_r18_mgda": row(PASCAL_FIVE, "64.9 57.9 15.6 62.5 61.4  -6.81 - -", doubted=True),
    "single_semantic_hrnet18": row(PASCAL_FIVE, "59.5 - - - -  0 - -", doubted=True),
    "single_parts_hrnet18": row(PASCAL_FIVE, "- 61.4 - - -  0 - -", doubted=True),
    "single_normals_hrnet18": row(PASCAL_FIVE, "- - 14.0 - -  0 - -", doubted=True),
    "single_saliency_hrnet18": row(PASCAL_FIVE, "- - - 67.3 -  0 - -", doubted=True),
    "single_edges_hrnet18": row(PASCAL_FIVE, "- - - - 72.6  0 - -", doubted=True),
    "pad_net_hrnet18": row(PASCAL_FIVE, "53.6 59.6 15.3 65.8 72.5  -5.62 - 212", doubted=True),
    "mti_net_hrnet18": row(PASCAL_FIVE, "64.3 62.1 14.8 68.0 73.4  1.13 - 15", doubted=True),
    # The first release.
    "mtl_hrnet18": row(PASCAL_FIVE, "55.4 59.4 15.0 65.4 71.6  -1.98 - -"),
    "mtl_small_hrnet18": row(PASCAL_SMALL, "56.3 60.4 65.8  -2.26 - -"),
    "pad_net_small_hrnet18": row(PASCAL_SMALL, "52.7 60.5 66.0  -4.08 - -"),
    "mti_net_small_hrnet18": row(PASCAL_SMALL, "63.1 62.1 67.2  3.20 - -"),
}
PRINTED = {f"nyud/{name}": printed for name, printed in NYUD.items()} | {
    f"pascal_context/{name}": printed for name, printed in PASCAL.items()
}

FIRST_RELEASE = {
    "nyud/single_semantic_r50": "40.1",
    "nyud/single_depth_r50": "0.571",
    "nyud/mtl_r50": "39.8 / 0.573 / -0.55",
    "nyud/mtan_r50": "40.0 / 0.572 / -0.17",
    "nyud/cross_stitch_r50": "39.9 / 0.565 / +0.26",
    "nyud/mti_net_hrnet18": "36.2 / 0.563 / +6.36",
    "pascal_context/single_semantic_hrnet18": "59.4",
    "pascal_context/single_parts_hrnet18": "60.3",
    "pascal_context/single_saliency_hrnet18": "67.0",
    "pascal_context/single_edges_hrnet18": "69.2",
    "pascal_context/single_normals_hrnet18": "14.6",
    "pascal_context/mti_net_hrnet18": "62.8 / 62.2 / 67.4 / 14.8 / 73.0 / +2.72",
}
"""What the first release says of a network of which the survey has a row: in words, in the recipe's note."""

COUNTED = {
    "nyud/mtl_r50": 55.8,
    "nyud/mtan_r50": 72.05,
    "nyud/cross_stitch_r50": 79.3,
    "nyud/nddr_cnn_r50": 101.6,
    "nyud/mtl_hrnet18": 4.0,
    "nyud/pad_net_hrnet18": 7.0,
    "nyud/pad_net_en_hrnet18": 12.2,
    "nyud/mti_net_hrnet18": 8.6,
    "nyud/mti_net_en_hrnet18": 14.8,
    "pascal_context/mtl_r18": 34.8,
    "pascal_context/mtan_r18": 36.6,
    "pascal_context/cross_stitch_r18": 79.5,
    "pascal_context/nddr_cnn_r18": 88.3,
    "pascal_context/mtl_hrnet18": 4.2,
    "pascal_context/pad_net_hrnet18": 29.3,
    "pascal_context/mti_net_hrnet18": 24.5,
}
"""Millions of parameters of the published code's networks, counted. Of JTRL, PAP-Net and PAD-Net on ResNet-50
there is no such code, and what their papers count is another network; so it is for the three-task set."""

COUNTED_TOGETHER = {
    ("nyud/single_*_r50", 2): 79.3,
    ("nyud/single_*_hrnet18", 2): 7.9,
    ("pascal_context/single_*_r18", 5): 79.5,
    ("pascal_context/single_*_hrnet18", 5): 19.7,
}
"""The same of all single-task networks together, with how many there are."""

SETTINGS = {
    "nyud/*_r50": "adam 1e-4 8 100",
    "nyud/mtl_r50_*": "adam 1e-4 8 100",
    "nyud/cross_stitch_r50": "sgd 1e-3 8 50",
    "nyud/nddr_cnn_r50": "sgd 1e-3 8 50",
    "nyud/*_hrnet18": "adam 1e-4 8 100",
    "pascal_context/single_*_r18": "adam 1e-4 12 60",
    "pascal_context/mtl_r18": "adam 1e-4 6 100",
    "pascal_context/mtl_r18_*": "adam 1e-4 6 100",
    "pascal_context/mtan_r18": "sgd 5e-3 6 100",
    "pascal_context/cross_stitch_r18": "sgd 5e-3 12 20",
    "pascal_context/nddr_cnn_r18": "sgd 5e-3 12 20",
    "pascal_context/*_hrnet18": "adam 1e-4 8 100",
    "pascal_context/*_small_hrnet18": "adam 1e-4 8 80",
    "pascal_context/single_*_hrnet18": "sgd 1e-2 8 60",
    "cityscapes/two_*": "adam 1e-4 64 200",
    "cityscapes/three_*": "sgd 1e-1 4 200",
}
"""Optimizer, learning rate, batch size and epochs; the last pattern that fits a recipe's name counts."""
