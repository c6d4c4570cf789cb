# PYTHON_ARGCOMPLETE_OK
"""Export a trained model to ONNX, TorchScript or OpenVINO, and compare it with PyTorch on real images.

    python export.py --weights runs/train/exp/weights/best.pt --format onnx

If boxes differ by more than 0.01 px or scores by more than 0.001 (float32), the export fails and leaves no file.

    python export.py --weights best.pt --format onnx,openvino --int8 --data neu-det.yaml

makes INT8 models too, calibrated on training images. Both float32 and INT8 are validated; the export fails if INT8 loses more
than --max-loss points of mAP50-95.
"""

from __future__ import annotations

import argparse
import sys

from cfg.command_line import read_arguments
from cfg.errors import guard
from engine.arguments import count, fraction, image_size
from engine.completion import complete_at_tab
from engine.locate import locate_weights


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, help="best.pt of a run")
    add("--format", default="onnx", help="onnx, torchscript, openvino, or a comma list (default %(default)s)")
    add("--imgsz", type=image_size, help="input size: 640, or height,width (default: as trained)")
    add("--batch", type=count, default=1, help="images at once (default %(default)s)")
    add("--opset", type=count, help="ONNX opset (default: the best one for this torch)")
    add("--dynamic", action="store_true", help="any batch, height and width")
    add("--simplify", action=argparse.BooleanOptionalAction, default=True, help="slim the ONNX graph with onnxslim")
    add("--half", action="store_true", help="float16 weights; checked within 1 %% of the image side and 0.02 in score")
    add("--int8", action="store_true", help="INT8 beside float32, for ONNX and OpenVINO; needs --data")
    add("--data", help="with --int8: data YAML; training images calibrate, validation images measure the loss")
    add("--calibration-images", type=count, default=300, help="with --int8: number of calibration images (default %(default)s)")
    add("--max-loss", type=loss, default=0.5, help="with --int8: largest loss in points of mAP50-95; none: any "
        "(default %(default)s)")  # fmt: skip
    add("--nms", action="store_true", help="put non-maximum suppression into the model")
    add("--conf", type=fraction, default=0.25, help="with --nms: confidence threshold (default %(default)s)")
    add("--iou", type=fraction, default=0.45, help="with --nms: IoU threshold (default %(default)s)")
    add("--max-det", type=count, default=300, help="with --nms: most objects per image (default %(default)s)")
    add("--device", default="cpu", help="cpu, or the number of a GPU (default %(default)s)")
    add("--out", help="file or folder (default: beside the weights)")
    add("--check-images", help="folder of images to compare on (default: two of the ultralytics package)")
    add("--no-check", dest="check", action="store_false", help="do not compare with PyTorch, nor INT8 with float32")
    return parser


def loss(text: str) -> float | None:
    """Parse points of mAP50-95 from 0 to 100; None for ``"none"``."""
    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"expected points of mAP50-95 from 0 to 100, or none, got '{text}'")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the export; return the exit status, 1 when images to calibrate on were left out."""
    parser = make_parser()
    complete_at_tab(parser)
    arguments = read_arguments(parser, argv)
    locate_weights(arguments.weights)  # before the imports that take seconds
    from engine.export.export_check import ExportOptions
    from engine.export.exporter import export

    _, left_out = export(ExportOptions(**vars(arguments)))
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(guard(main))
