"""Train a detector, alone or distilled from a teacher.

    python train.py --cfg t-model.yaml --data neu-det.yaml
    python train.py --cfg s-model.yaml --teacher runs/train/exp/weights/best.pt --data neu-det.yaml

Arguments are `--name value`, `--name=value` or `name=value`:

    --cfg FILE       model YAML: a name below cfg/models, an ultralytics model (yolo11n.yaml), or a path
    --data FILE      data YAML: a name below cfg/data, or a path
    --teacher FILE   trained weights to distil from (.pt, ours or ultralytics'); without it, plain training
    --distill NAME   distillation configuration below cfg/distill (default: attention)
    --adaptive MODE  weights of the loss terms: stable (default), paper, none, uncertainty
    --recipe NAME    training recipe below cfg/train: paper (default), quick
    --weights FILE   start from these weights where name and shape match (ours, ultralytics', YOLOv5's)
    --teacher-init B start the student from the teacher's tensors where they fit (default: True)
    --auto-anchors B refit the anchors to the training boxes when their recall is low (default: True)
    --resume [FILE]  continue an interrupted run from its last.pt (default: the newest)
    --tensorboard    write TensorBoard events to the run folder
    --info           print layers, parameters, size and GFLOPs of --cfg, and stop

and every training argument of ultralytics: epochs, imgsz, batch, device, workers, optimizer, lr0, patience, project, name,
seed, amp, cache, mosaic, ... (https://docs.ultralytics.com/usage/cfg). Several GPUs: --device 0,1, or torchrun train.py ...
"""

import sys

from cfg import guard


def main() -> int:
    tokens = sys.argv[1:]
    if not tokens or "-h" in tokens or "--help" in tokens:
        print(__doc__)
        return 0 if tokens else 2
    from engine.settings import known_names, read_command_line

    given = read_command_line(tokens, known_names())
    from engine.launch import info, train

    if given.pop("info", False):
        print(info(given))
        return 0
    folder = train(given, tokens)
    if folder:  # with several processes, the first one says it
        print(f"results in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
