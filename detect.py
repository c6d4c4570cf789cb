# PYTHON_ARGCOMPLETE_OK
"""Find defects in images, folders, videos and camera streams with a trained or exported model.

    python detect.py --weights runs/train/exp/weights/best.pt --source folder/of/images --save-json
    python detect.py --weights runs/train/exp/weights/best.pt --source s3://bucket/images --shards s3://bucket/job   # very many images

With a decision plan (made by val.py --decide; inside the weights, or --decision FILE) every image gets a verdict, OK, NG or REVIEW,
and the rule that decided. An image that cannot be read is UNDEFINED, never OK.

Exit status: 0 done, 1 some images could not be read, received, decided about or drawn, 2 wrong arguments or input, 130 interrupted.
Verdicts do not change it.
"""

from __future__ import annotations

import argparse
import sys

from cfg.command_line import read_arguments
from cfg.errors import guard
from engine.arguments import add_precision, add_shards, add_tiling, check_shards, count, fraction, image_size, seconds, shard_options
from engine.completion import complete_at_tab
from engine.locate import locate_weights
from engine.startup import quick_imports


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detect.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, help="best.pt, or an exported .onnx, .torchscript or OpenVINO folder")
    add("--source", required=True, nargs="+", help="image, folder (recursive), glob, video, .txt list, camera, URL")
    add("--imgsz", type=image_size, help="input size: 640, or height,width (default: as trained or exported)")
    add("--conf", type=fraction, help="confidence threshold (default: 0.25, or the plan's lowest limit)")
    add("--iou", type=fraction, help="IoU threshold of NMS (default: 0.45, or the plan's)")
    add("--max-det", type=count, default=300, help="most objects per image (default %(default)s)")
    add("--device", default="", help="cpu, or the number of a GPU (default: the first GPU, else cpu)")
    add("--batch", type=count, help="images at once (default: small ones together, as many pixels as one of 640 x 640)")
    add("--classes", nargs="+", help="report these classes only: indices or names")
    add("--agnostic-nms", action="store_true", help="boxes of different classes suppress each other")
    add_precision(parser)
    add_tiling(parser)
    add("--save-txt", action="store_true", help="labels/NAME.txt in YOLO format")
    add("--save-conf", action="store_true", help="with confidence in labels/NAME.txt (implies --save-txt)")
    add("--save-json", action="store_true", help="results.json")
    add("--save-csv", action="store_true", help="results.csv")
    add("--save-coco", action="store_true", help="coco.json")
    add("--report", action="store_true", help="report.html: one page with verdicts, charts and images; works offline")
    add("--heatmap", choices=("evidence", "layercam", "attention", "drise"),
        help="what the model looks at: scores of the head, gradients of each box, attention, or random masks (exports too)")
    add("--no-draw", dest="draw", action="store_false", help="no annotated images or videos")
    add("--line-width", type=count, help="line width of the drawn boxes, in pixels (default: by image size)")
    add("--project", default="runs/detect", help="folder of the runs (default %(default)s)")
    add("--name", default="exp", help="name of this run; numbered when it exists (default %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    add("--view", action="store_true", help="show the results in a window; q ends the run")
    add("--reconnect", type=seconds, default=30.0,
        help="seconds to try to connect a broken stream again (default %(default)g)")
    add("--decision", metavar="FILE", help="decide by this plan (default: the one inside the weights)")
    add("--no-decision", action="store_true", help="report boxes only, even if the weights hold a plan")
    add("--sort-into", metavar="OK,NG,REVIEW", help="put a link to each image into the folder of its verdict, as ok,ng,review; a fourth "
        "folder takes images that could not be read")  # fmt: skip
    add("--sort-copy", action="store_true", help="with --sort-into: copies instead of links")
    add_shards(parser)
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    complete_at_tab(parser)
    options = read_arguments(parser, argv)
    check_shards(parser, options)
    if options.decision and options.no_decision:
        parser.error("--decision and --no-decision: expected one of them; leave the other out")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run detection; return the exit status."""
    arguments = parse(argv)
    arguments.save_txt |= arguments.save_conf
    locate_weights(arguments.weights)  # before the imports that take seconds
    given, shards = shard_options(vars(arguments))
    with quick_imports():
        from engine.detection.options import DetectOptions
        from engine.detection.predictor import detect

    if shards["shards"]:
        from engine.shards.run import asked, detect_shards

        return 0 if detect_shards(DetectOptions(**given), asked(**shards)) else 1
    return 0 if detect(DetectOptions(**given)).complete else 1


if __name__ == "__main__":
    sys.exit(guard(main))
