"""The parts of a dynamic teacher: label encoder, appearance, interaction, painting, feature adaptor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.dynamic.adaptor import FeatureAdaptor
from distill.dynamic.appearance import AppearanceEncoder, mask_pool
from distill.dynamic.interaction import Interaction, paint
from distill.dynamic.labels import LabelEncoder, descriptors, over_objects
from distill.dynamic.level import LevelTeacher
from distill.dynamic.objects import Objects, pack_objects
from distill.dynamic.place import places

BATCH = {
    "img": torch.zeros(3, 3, 8, 8),
    "batch_idx": torch.tensor([2.0, 0.0, 2.0]),  # image 1 has none; not in order
    "cls": torch.tensor([[1.0], [0.0], [2.0]]),
    "bboxes": torch.tensor([[0.25, 0.5, 0.5, 0.5], [0.5, 0.25, 0.25, 0.5], [0.75, 0.75, 0.5, 0.5]]),
}


def packed(virtual: bool = True) -> Objects:
    return pack_objects(BATCH, 3, torch.device("cpu"), virtual)


def some(count: int, seed: int = 0, images: int = 1) -> Objects:
    """`images` images of `count` random objects each, beside the virtual one; 3 classes."""
    torch.manual_seed(seed)
    boxes = torch.cat((torch.rand(images * count, 2), torch.rand(images * count, 2)), 1)
    index = torch.arange(images).repeat_interleave(count).float()
    labels = {"cls": torch.randint(0, 3, (images * count, 1)).float(), "bboxes": boxes, "batch_idx": index}
    return pack_objects({"img": torch.zeros(images, 3, 8, 8)} | labels, 3, torch.device("cpu"))


def test_objects_by_image():
    objects = packed()
    assert objects.valid.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert objects.boxes_xywhn[:, 0].tolist() == [[0.5, 0.5, 1, 1]] * 3
    assert objects.boxes_xywhn[2, 1:].tolist() == BATCH["bboxes"][[0, 2]].tolist()
    assert objects.classes[2].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert packed(virtual=False).valid[:, 0].tolist() == [False, True, False]


def test_object_masks_by_hand():
    rows, columns = packed().masks((4, 4))
    assert rows[0, 1].tolist() == [1, 1, 0, 0] and columns[0, 1].tolist() == [0, 1, 1, 0]
    assert rows[2, 1].tolist() == [0, 1, 1, 0] and columns[2, 1].tolist() == [1, 1, 0, 0]
    assert rows[1].tolist() == [[1] * 4, [0] * 4, [0] * 4]  # the virtual object, and empty places


def test_descriptor_by_hand():
    found = descriptors(packed())[2].tolist()
    assert found[0] == [-1, -1, 1, 1, -1, -1, -1]
    assert found[1] == [-1, -0.5, 0, 0.5, -1, 1, -1]
    assert found[2] == [0, 0, 1, 1, -1, -1, 1]


def test_permuted_objects_have_permuted_embeddings():
    torch.manual_seed(1)
    encoder, objects = LabelEncoder(3, 16).double(), some(6)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    doubled = Objects(objects.boxes_xywhn.double(), objects.classes.double(), objects.valid)
    permuted = Objects(*(x[:, order] for x in doubled))
    first, second = encoder(doubled), encoder(permuted)
    assert torch.allclose(first[:, order], second, atol=1e-12)
    assert not torch.allclose(first, second, atol=1e-3)


def test_an_embedding_knows_the_other_objects_of_its_image_only():
    torch.manual_seed(1)
    encoder, objects = LabelEncoder(3, 16), some(4, images=2)
    before = encoder(objects)
    boxes = objects.boxes_xywhn.clone()
    boxes[1, 2] = torch.tensor([0.9, 0.1, 0.05, 0.05])
    after = encoder(objects._replace(boxes_xywhn=boxes))
    assert torch.equal(before[0], after[0])
    assert (before[1, 1] != after[1, 1]).any(), "the context of the image is missing"


def test_empty_places_do_not_count():
    torch.manual_seed(1)
    encoder, objects = LabelEncoder(3, 16), some(2)
    longer = Objects(*(torch.cat((x, x[:, :2]), 1) for x in objects))
    longer.valid[:, 3:] = False
    assert torch.allclose(encoder(longer)[:, :3], encoder(objects), atol=1e-6)
    values = torch.tensor([[[1.0], [5.0]]])
    assert over_objects(values, torch.tensor([[True, False]])).item() == 1


def test_doubling_a_box_does_not_double_its_appearance():
    features = torch.full((1, 2, 8, 8), 3.0)
    objects = pack_objects(
        {"img": features, "batch_idx": torch.zeros(2), "cls": torch.zeros(2, 1),
         "bboxes": torch.tensor([[0.5, 0.5, 0.25, 0.25], [0.5, 0.5, 0.5, 0.5]])}, 1, features.device
    )  # fmt: skip
    rows, columns = objects.masks((8, 8))
    assert [int(a) for a in (rows.sum(2) * columns.sum(2))[0]] == [64, 4, 16]
    assert torch.equal(mask_pool(features, rows, columns), torch.full((1, 3, 2), 3.0))


def test_pooling_is_a_mean_over_the_box():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    rows, columns = torch.tensor([[[0.0, 1, 1, 0]]]), torch.tensor([[[1.0, 1, 0, 0]]])
    assert mask_pool(features, rows, columns).item() == (4 + 5 + 8 + 9) / 4
    assert mask_pool(features, rows * 0, columns).item() == 0


def test_appearance_of_features_is_projected_first():
    torch.manual_seed(0)
    encoder, x = AppearanceEncoder(4), torch.randn(2, 4, 6, 6)
    rows = columns = torch.ones(2, 1, 6)
    assert torch.allclose(encoder(x, rows, columns)[:, 0], encoder.project(x).mean((2, 3)), atol=1e-6)


def naive_attention(layer: Interaction, appearance: Tensor, labels: Tensor) -> list[list[float]]:
    """eqs. 3-4 for one image, object by object and head by head."""
    query, key, value = layer.query(appearance), layer.key(labels), layer.value(labels)
    width = query.shape[1] // layer.heads
    rows = []
    for i in range(len(query)):
        parts = []
        for h in range(layer.heads):
            part = slice(h * width, (h + 1) * width)
            logits = [(query[i, part] @ key[j, part]).item() / math.sqrt(width) for j in range(len(key))]
            shares = [math.exp(v) / sum(map(math.exp, logits)) for v in logits]
            parts.append(sum(s * value[j, part] for j, s in enumerate(shares)))
        rows.append((layer.out.weight @ torch.cat(parts) + layer.out.bias).tolist())
    return rows


def test_interaction_is_eqs_3_and_4():
    torch.manual_seed(0)
    layer = Interaction(12, 10, heads=8).double()
    assert layer.heads == 4
    appearance, labels = torch.randn(1, 5, 12, dtype=torch.float64), torch.randn(1, 5, 10, dtype=torch.float64)
    found = layer(appearance, labels, torch.ones(1, 5, dtype=torch.bool))
    expected = torch.tensor(naive_attention(layer, appearance[0], labels[0]), dtype=torch.float64)
    assert torch.allclose(found[0], expected, atol=1e-12)
    fewer = layer(appearance, labels, torch.tensor([[True] * 3 + [False] * 2]))
    expected = torch.tensor(naive_attention(layer, appearance[0, :3], labels[0, :3]), dtype=torch.float64)
    assert torch.allclose(fewer[0, :3], expected, atol=1e-12)


def test_attention_between_images_is_exactly_zero():
    torch.manual_seed(0)
    teacher, labels = LevelTeacher(8, 16), torch.randn(2, 4, 16, requires_grad=True)
    objects, features = some(3, images=2), torch.randn(2, 8, 8, 8)
    teacher(features, labels, objects)[0].square().sum().backward()
    assert labels.grad[0].abs().sum() > 0 and torch.equal(labels.grad[1], torch.zeros(4, 16))
    other = torch.cat((labels[:1], torch.randn(1, 4, 16)))
    there = torch.cat((features[:1], torch.randn(1, 8, 8, 8)))
    assert torch.equal(teacher(features, labels, objects)[0], teacher(there, other, objects)[0])


def test_a_dynamic_teacher_gives_the_student_no_gradient():
    torch.manual_seed(0)
    features = torch.randn(1, 8, 8, 8, requires_grad=True)
    LevelTeacher(8, 16)(features, torch.randn(1, 3, 16), some(2)).sum().backward()
    assert features.grad is None


@pytest.mark.parametrize(("kernel", "alike"), [(1, True), (3, False)])
def test_a_cell_knows_where_in_its_box_it_lies_by_3x3_convs_only(kernel, alike):
    torch.manual_seed(0)
    whole = pack_objects({"img": torch.zeros(1, 3, 8, 8), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4),
                          "batch_idx": torch.zeros(0)}, 3, torch.device("cpu"))  # fmt: skip  # the virtual object alone
    taught = LevelTeacher(8, 16, kernel)(torch.randn(1, 8, 8, 8), torch.randn(1, 1, 16), whole)
    assert torch.allclose(taught[..., 0, 0], taught[..., 4, 4], atol=1e-5) == alike


def test_places_by_hand():
    """One 4 x 4 grid: a box of 2 x 2 cells about (1, 2), and one of 1 x 2 cells about (1.5, 1.5) that overlaps it and is smaller."""
    labels = {"cls": torch.zeros(2, 1), "bboxes": torch.tensor([[0.25, 0.5, 0.5, 0.5], [0.375, 0.375, 0.25, 0.5]]), "batch_idx": torch.zeros(2)}
    objects = pack_objects({"img": torch.zeros(1, 3, 8, 8)} | labels, 3, torch.device("cpu"))
    found = places(objects, *objects.masks((4, 4)))
    two = math.log(2)
    assert found.shape == (1, 5, 4, 4)
    assert found[0, :, 2, 0].tolist() == pytest.approx([0.5, -0.5, two, two, 1])  # cell centre (0.5, 2.5), of the first box alone
    assert found[0, :, 1, 1].tolist() == pytest.approx([0, 0, 0, two, 1])  # in both: of the smaller one
    assert not found[0, :, :, 3].any() and not found[0, :, 3].any(), "the virtual object has no place"


def test_a_dynamic_teacher_told_of_places_knows_where_a_cell_lies():
    torch.manual_seed(0)
    labels = {"cls": torch.zeros(1, 1), "bboxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]), "batch_idx": torch.zeros(1)}
    one = pack_objects({"img": torch.zeros(1, 3, 8, 8)} | labels, 3, torch.device("cpu"))
    features, embedded = torch.randn(1, 8, 8, 8), torch.randn(1, 2, 16)
    for place in (False, True):
        taught = LevelTeacher(8, 16, place=place)(features, embedded, one)
        assert torch.allclose(taught[..., 2, 2], taught[..., 4, 5], atol=1e-5) != place


def test_painting_by_hand():
    embeddings = torch.tensor([[[1.0], [3.0], [50.0]]])
    rows = torch.tensor([[[1.0, 1, 0], [0, 1, 0], [0, 0, 0]]])
    columns = torch.tensor([[[1.0, 1], [0, 1], [1, 1]]])
    assert paint(embeddings, rows, columns).tolist() == [[[[1, 1], [1, 2], [0, 0]]]]


def naive_axis(x: Tensor, linear: torch.nn.Linear, segments: int) -> Tensor:
    """Mixing along the last axis of (C, W, H): all segments of a place go through the layer together."""
    channels, across, along = x.shape
    each, out = channels // segments, torch.zeros_like(x)
    for n in range(each):
        for w in range(across):
            row = torch.cat([x[s * each + n, w] for s in range(segments)])
            mixed = linear.weight @ row + linear.bias
            for s in range(segments):
                out[s * each + n, w] = mixed[s * along : (s + 1) * along]
    return out


@pytest.mark.parametrize("segments", [1, 2, 4, 8])
def test_the_adaptor_is_eq_5(segments):
    torch.manual_seed(0)
    layer = FeatureAdaptor(8, (3, 5), segments).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    for image, found in zip(x, layer(x), strict=True):
        height = naive_axis(image.transpose(1, 2), layer.height, segments).transpose(1, 2)
        width = naive_axis(image, layer.width, segments)
        channel = torch.einsum("oc,chw->ohw", layer.channel.weight, image) + layer.channel.bias[:, None, None]
        weights = layer.weigh((height + width + channel).mean((1, 2))).view(3, 8)
        weights = weights.exp() / weights.exp().sum(0)
        three = zip(weights, (height, width, channel), strict=True)
        mixed = sum(weight[:, None, None] * part for weight, part in three)
        expected = torch.einsum("oc,chw->ohw", layer.out.weight, mixed) + layer.out.bias[:, None, None]
        assert torch.allclose(found, expected, atol=1e-12)


def test_gradients_reach_all_three_directions():
    torch.manual_seed(0)
    layer = FeatureAdaptor(8, (4, 6))
    layer(torch.randn(2, 8, 4, 6)).square().sum().backward()
    for part in (layer.height, layer.width, layer.channel, *layer.weigh[::2], layer.out):
        assert part.weight.grad.abs().sum() > 0 and part.bias.grad.abs().sum() > 0


def test_directions_reach_their_own_axis():
    torch.manual_seed(0)
    layer = FeatureAdaptor(4, (5, 7), 2)
    reached = {}
    for name in ("along_height", "along_width", "along_channels"):
        x = torch.randn(1, 4, 5, 7, requires_grad=True)
        getattr(layer, name)(x)[0, 1, 2, 3].backward()
        reached[name] = {tuple(cell) for cell in x.grad.abs().sum((0, 1)).nonzero().tolist()}
    assert reached["along_height"] == {(row, 3) for row in range(5)}
    assert reached["along_width"] == {(2, column) for column in range(7)}
    assert reached["along_channels"] == {(2, 3)}


def test_another_grid_is_resized_and_back():
    torch.manual_seed(0)
    layer = FeatureAdaptor(8, (4, 6))
    assert layer(torch.randn(1, 8, 7, 9)).shape == (1, 8, 7, 9)
    flat = torch.full((1, 8, 4, 6), 0.3)
    for part in (layer.height, layer.width):
        torch.nn.init.eye_(part.weight)
        torch.nn.init.zeros_(part.bias)
    small = layer(flat).mean((2, 3))
    assert torch.allclose(layer(torch.full((1, 8, 8, 12), 0.3)).mean((2, 3)), small, atol=1e-5)
