# PYTHON_ARGCOMPLETE_OK
"""Train a detector, alone or distilled from a teacher.

    python train.py --cfg t-model.yaml --data neu-det.yaml --name teacher
    python train.py --cfg s-model.yaml --data neu-det.yaml --teacher runs/train/teacher/weights/best.pt

Arguments are `--name value`, `--name=value` or `name=value`. The run's folder is runs/train/NAME.

model and data
    --cfg FILE       model YAML: a name below cfg/models, an ultralytics model (yolo11n.yaml), or a path
    --data FILE      data YAML: a path, or a name below cfg/data
    --recipe NAME    training recipe below cfg/train: paper (default), quick (CPU), rare (few defects, many good parts), hsd, sdd, start
    --weights FILE   start weights: shipped (default: ours, where there are some for the model), none (random), or
                     a file (ours, ultralytics', YOLOv5's)
    --map-classes    pair the classes of --weights and --teacher with the data's by name (default: another order is refused)
    --tile N         large images: cut the data into tiles of N pixels first (as python -m data.tile), and train on them
    --overlap X      with --tile: share of a tile that its neighbour also shows (default: 0.2, up to 0.5 if defects are long)
    --auto-anchors B refit the anchors to the training boxes when their recall is low (default: True)

distillation
    --teacher FILE   weights (.pt, ours, ultralytics', YOLOv5's), or a YAML that names a torchvision detector
    --distill NAME   method below cfg/distill, or several as attention+0.5*output (default: auto; lgd and sdd need no teacher)
    --teacher-init B start the student from the teacher's weights: select (default; its blocks of the student's width, if they are
                     the better start), True (tensors of the same name and shape), False
    --unlabelled DIR distil on images without labels (a folder, a list file, a data YAML's training part), without --data; then
                     train on labels with --weights runs/train/NAME/weights/best.pt
    --kd-share X     gradient ratio: distillation over detection (default: 0.3; None: each loss is weighted by its own gain)
    --kd-cap X       upper limit of the ratio of all methods together (default: None)
    --kd-project B   raise detection's weight where the two gradients oppose each other (default: True)
    --kd-hold B      keep the ratio during training (default: True); False: set it at the start only
    --kd-every N     steps between two measurements of the ratio (default: 50)
    --kd-warmup X, --kd-until X, --kd-decay cosine    how distillation begins and ends, in fractions of training
    --adaptive MODE  weights of the losses: none (default), stable, paper, uncertainty

few defects among many good parts (set by --recipe rare)
    --repeat-threshold T    repeat images of classes that are in less than this share of the images
    --background-share X    images without objects are at most this share of an epoch
    --min-steps N           an epoch has at least so many batches
    --paste P               probability that an image gets defects cut out of other training images

the run
    --resume [FILE]  continue an interrupted run from its last.pt (default: the newest one); auto: start the run --name, or continue it
    --amp MODE       True (default; on a CPU: bfloat16 if the processor has it, TANDEM_BF16=0|1 overrides), bf16, fp32
    --lr-steps LIST  fractions of training at which the learning rate falls to a tenth, as [0.67,0.89]
    --tensorboard    write TensorBoard events to the run folder
    --verbose        show every loss, weight and gradient ratio
    --info           print layers, parameters, size and GFLOPs of --cfg, and stop

and every training argument of ultralytics: epochs, imgsz, batch, device, workers, optimizer, lr0, patience, project, name,
seed, cache, mosaic, ... (https://docs.ultralytics.com/usage/cfg). Several GPUs: --device 0,1, or torchrun train.py ...
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
