# PYTHON_ARGCOMPLETE_OK
"""Serve verdicts over HTTP: images in, OK, NG or REVIEW out. Needs no PyTorch (requirements-serve.txt).

    python serve.py --weights best.onnx
    curl --data-binary @part.jpg "http://127.0.0.1:8080/inspect?PartId=4711"

The decision plan is the one inside the weights, or --decision FILE. After any fault the verdict is UNDEFINED, never OK.
http://127.0.0.1:8080/ is a page to try images on; /metrics is for Prometheus, /v2 for clients of the Open Inference Protocol (Triton).

Exit status: 0 ended by SIGTERM, 2 wrong arguments or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cfg.command_line import read_arguments
from cfg.cpus import available_cpus
from cfg.errors import UserError, guard
from engine.arguments import add_tiling, count, fraction, image_size, seconds
from engine.completion import complete_at_tab
from engine.locate import locate_weights
from service import cameras, sinks

JOURNAL = "runs/serve"
CAMERAS_AND_SINKS = ("source", "new_only", "mqtt", "modbus", "webhook", "backlog")  # told to their packages, not to the service itself


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="serve.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, help="an exported .onnx or OpenVINO folder")
    add("--decision", metavar="FILE", help="decide by this plan (default: the one inside the weights)")
    add("--no-decision", action="store_true", help="find boxes only: every verdict is UNDEFINED")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all addresses of this machine (default %(default)s)")
    add("--port", type=port, default=8080, help="port to listen on; 0: any free one (default %(default)s)")
    add("--token", help="clients must send it as Authorization: Bearer TOKEN; a file is safer, since other programs can read arguments")
    add("--token-file", metavar="FILE", help="file with the token (or set the variable TANDEM_TOKEN)")
    add("--journal", metavar="DIR", help="folder for accepted images, results that sinks still have to deliver, and files seen: after a crash, "
        f"images without a verdict are reported as UNDEFINED (default: {JOURNAL} with sinks or a source, else no journal)")  # fmt: skip
    add("--queue", type=count, default=32, help="most images that wait; further ones are answered with 503 (default %(default)s)")
    add("--threads", type=count, default=available_cpus(), help="threads of the network (default: all cores, here %(default)s)")
    add("--timeout", type=seconds, default=10.0, help="most seconds from acceptance to a verdict; then it is UNDEFINED (default %(default)g)")
    add("--max-bytes", type=count, default=64 * 2**20, help="largest image file, in bytes (default %(default)s)")
    add("--max-pixels", type=count, default=100_000_000, help="largest image, in pixels, read from its header (default %(default)s)")
    add("--memory", type=count, default=512 * 2**20, help="most bytes of all requests together (default %(default)s)")
    add("--connections", type=count, default=1000, help="most open connections; beyond it the longest idle one is closed (default %(default)s)")
    add("--client-timeout", type=seconds, default=30.0, help="most seconds for a request to arrive (default %(default)g)")
    add("--imgsz", type=image_size, help="input size of an export of any size: 640, or height,width (default: as exported)")
    add("--conf", type=fraction, help="confidence threshold (default: 0.25, or the plan's lowest limit)")
    add("--iou", type=fraction, help="IoU threshold of NMS (default: 0.45, or the plan's)")
    add("--max-det", type=count, default=300, help="most objects per image (default %(default)s)")
    add("--agnostic-nms", action="store_true", help="boxes of different classes suppress each other")
    add_tiling(parser)
    cameras.add_arguments(parser)
    sinks.add_arguments(parser)
    complete_at_tab(parser)
    options = read_arguments(parser, argv)
    if options.decision and options.no_decision:
        parser.error("--decision and --no-decision: expected one of them; leave the other out")
    return options


def port(text: str) -> int:
    """Parse a port's number, 0 to 65535."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got '{text}'")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Serve until the end; return the exit status."""
    arguments = parse(argv)
    arguments.weights = locate_weights(arguments.weights)  # before the imports that take time
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(arguments.max_pixels)  # read once, when OpenCV is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sink_options = sinks.read_options(arguments)
    kept = arguments.journal or (JOURNAL if arguments.source or arguments.mqtt or arguments.webhook or arguments.modbus else None)
    camera_options = cameras.read_options(arguments, [Path(kept)] if kept else [])
    arguments.journal = kept
    try:
        from service.server import ServeOptions, serve
    except ModuleNotFoundError as error:
        if "." in (error.name or "."):  # a part of ours: a bug
            raise
        raise UserError(f"serve.py: expected the package {error.name}, it is not installed; pip install -r requirements-serve.txt") from None
    rest = {name: value for name, value in vars(arguments).items() if name not in CAMERAS_AND_SINKS}
    serve(ServeOptions(**rest, sinks=sink_options, cameras=camera_options))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
