"""Sabotages of detection."""

from __future__ import annotations

from tests.mutants.sabotages import Sabotage

BOXES, DETECTION = "tests/test_boxes.py::test_", "tests/tasks/test_detection.py::test_"

OF_DETECTION = [
    Sabotage(
        "of equal scores the last box stays",
        "boxes.py",
        "order = scores.argsort(descending=True, stable=True)",
        "order = len(scores) - 1 - scores.flip(0).argsort(descending=True, stable=True)",
        BOXES + "of_equal_scores_the_first_stays",
    ),
    Sabotage(
        "of two boxes the first has their default box",
        "boxes.py",
        'forced.scatter_reduce(0, own, number, "amax")[:-1]',
        "forced.scatter_(0, own.flip(0), number.flip(0))[:-1]",
        BOXES + "of_two_boxes_that_want_one_default_box_the_later_has_it",
    ),
    Sabotage(
        "a box without area has a default box",
        "boxes.py",
        "there = solid(boxes)\n",
        "there = torch.ones(len(boxes), dtype=torch.bool)\n",
        BOXES + "what_has_no_area_matches_nothing",
    ),
    Sabotage(
        "negatives of an image without boxes",
        "losses.py",
        "< self.negatives * count",
        "< self.negatives * count.clamp(min=1)",
        "tests/test_losses.py::test_multibox_of_an_image_without_boxes_is_0_and_so_is_its_gradient",
    ),
    Sabotage(
        "detection divides by the shard's images",
        "tasks/detection.py",
        '(place + kind).sum() / counts["images"]',
        "(place + kind).sum() / len(shard)",
        "tests/tasks/test_detection.py::TestSSD::test_unequal_shards_add_up_to_the_whole_batch",
    ),
    Sabotage(
        "a batch without boxes is a step",
        "tasks/detection.py",
        '("boxes",) if self.anchored',
        '("images",) if self.anchored',
        DETECTION + "images_without_boxes_have_a_finite_loss_and_nothing_to_learn_from",
    ),
    Sabotage(
        "boxes stay in the pixels of the network",
        "tasks/detection.py",
        "boxes = brought_back(boxes, affine).float()",
        "boxes = boxes.float()",
        DETECTION + "what_a_network_says_comes_back_in_the_pixels_of_the_file",
    ),
    Sabotage(
        "a mosaic's partners under no key",
        "data/reader.py",
        "torch.randint(len(self.source), (count,))",
        "torch.randint(len(self.source), (count,), generator=torch.Generator().manual_seed(0))",
        "tests/data/test_box_transforms.py::test_partners_are_drawn_under_the_samples_key",
    ),
    Sabotage(
        "a crop keeps boxes whose centre is outside",
        "data/box_transforms.py",
        "((centre > lower) & (centre < upper)).all(1)",
        "((centre > lower) & (centre < upper)).any(1)",
        "tests/data/test_box_transforms.py::test_a_box_whose_centre_is_cut_off_in_one_direction_goes_with_its_label",
    ),
    Sabotage(
        "difficult objects are judged",
        "average_precision/matching.py",
        "loose = truth.crowd | truth.difficult",
        "loose = truth.crowd",
        "tests/test_box_matching.py::test_a_detection_of_a_difficult_object_counts_nowhere",
    ),
    Sabotage(
        "lists of an evaluation by process",
        "engine/evaluate.py",
        "isinstance(value, list) or value.is_floating_point()",
        "not isinstance(value, list) and value.is_floating_point()",
        "tests/engine/test_evaluate.py::test_lists_are_put_one_after_another_in_the_order_of_the_batches_whoever_had_them",
    ),
    Sabotage(
        "a box is left out by its place",
        "data/boxed.py",
        "kept[place if place in same else same[-1:]] = False",
        "kept[place] = False",
        "tests/data/test_coco_file.py::test_a_box_that_moved_is_left_out_by_its_number",
    ),
]
