# PYTHON_ARGCOMPLETE_OK
"""Train a detector, alone or distilled from a teacher.

    python train.py --cfg t-model.yaml --data neu-det.yaml
    python train.py --cfg s-model.yaml --teacher runs/train/exp/weights/best.pt --data neu-det.yaml

Arguments are `--name value`, `--name=value` or `name=value`:

    --cfg FILE       model YAML: a name below cfg/models, an ultralytics model (yolo11n.yaml), or a path
    --data FILE      data YAML: a name below cfg/data, or a path
    --teacher FILE   what to distil from: weights (.pt, ours, ultralytics', YOLOv5's), or a YAML that names a torchvision detector
    --unlabelled DIR pictures without labels to distil on (a folder, a list file, a data YAML's training part), in the place of
                     --data; then train on labels from the weights that come out: --weights runs/train/exp/weights/best.pt
    --distill NAME   how, a configuration below cfg/distill or several as attention+0.5*output (default: auto; lgd and
                     sdd need no teacher)
    --kd-share X     gradient of distillation over detection's (default: 0.3; None: as the losses are)
    --kd-cap X       largest such share; --kd-until X, --kd-decay cosine: when distillation ends, and how
    --kd-project B   give detection back what distillation takes from it where the two are opposed (default: True)
    --adaptive MODE  weights of the loss terms of a distilled run: none (default), stable, paper, uncertainty
    --recipe NAME    training recipe below cfg/train: paper (default), quick, rare (few defects, many good parts), hsd, sdd
    --repeat-threshold T, --background-share X, --min-steps N, --paste P    for few defects among many good parts: classes in less than
                     a share T of the images are drawn more often; images without objects are at most a share X of the draws; an epoch
                     has N batches or more; an image gets defects cut out of others of the training part with probability P
    --lr-steps LIST  fractions of training at which the learning rate falls to a tenth, as [0.67,0.89]
    --weights FILE   what to start from: shipped (default: ours, where there are some for the model), none (random numbers), or
                     a file (ours, ultralytics', YOLOv5's), block by block or by name and shape
    --teacher-init B start the student from its teacher: select (default; chosen channels where the two are laid out alike), True (what
                     fits by name and shape), False
    --map-classes    pair the classes of --weights and --teacher with the data's by name (default: refuse another order)
    --auto-anchors B refit the anchors to the training boxes when their recall is low (default: True)
    --resume [FILE]  continue an interrupted run from its last.pt (default: the newest such); auto: begin the run --name, or go on with it
    --amp MODE       arithmetic of the forward passes: True (default; on a CPU bfloat16 where it is fast at it, or what TANDEM_BF16=0|1
                     says), bf16, fp32; a resumed run keeps it
    --tile N         large images: cut the data into tiles of N pixels first (python -m data.tile), into the run's folder, and train on
                     these at --imgsz; --overlap X: share of a tile that its neighbour shows too (default: 0.2, or more)
    --tensorboard    write TensorBoard events to the run folder
    --info           print layers, parameters, size and GFLOPs of --cfg, and stop

and every training argument of ultralytics: epochs, imgsz, batch, device, workers, optimizer, lr0, patience, project, name,
seed, amp, cache, mosaic, ... (https://docs.ultralytics.com/usage/cfg). Several GPUs: --device 0,1, or torchrun train.py ...
"""

import os
import sys

from cfg import guard


def main() -> int:
    """Run the command line; return the exit status, 1 when images were left out as damaged."""
    if "_ARGCOMPLETE" in os.environ:
        from engine.completion import complete_at_tab, parser_of
        from engine.settings import known_names

        complete_at_tab(parser_of(known_names()))
    tokens = sys.argv[1:]
    if not tokens or "-h" in tokens or "--help" in tokens:
        print(__doc__)
        return 0 if tokens else 2
    from engine.settings import known_names, read_command_line

    given = read_command_line(tokens, known_names())
    from engine.dataset import LEFT_OUT
    from engine.training.info import info
    from engine.training.launch import train
    from engine.training.processes import is_one_of_several

    if given.pop("info", False):
        print(info(given))
        return 0
    folder = train(given, tokens)
    if not folder:  # of several processes, the first one says it
        return 0
    print(f"results in {folder}")
    return 1 if (folder / LEFT_OUT).exists() and not is_one_of_several() else 0


if __name__ == "__main__":
    sys.exit(guard(main))
