"""Whole networks: made by name, refused where they cannot work, saved and restored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import plait
from plait.errors import ConfigurationError
from plait.models import MultiTaskNetwork, create_model
from plait.models.decoders.independent import Independent
from plait.models.encoders.shared import Shared
from plait.models.parameters import FrozenBatchNorm2d, backbone_depths, freeze_batch_norm
from plait.tasks.base import Task
from plait.testing import tiny_backbone

TINY = "test_efficientnet"


def make_tasks(**auxiliary: bool) -> tuple[Task, ...]:
    described: dict[str, dict[str, Any]] = {
        "semseg": {"kind": "semantic", "classes": 5},
        "depth": {"kind": "depth"},
    }
    for name, value in auxiliary.items():
        described[name]["auxiliary"] = value
    return plait.tasks.parse(described)


def images(height: int = 33, width: int = 65) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_separate_network_is_its_single_task_networks() -> None:
    tasks = make_tasks()
    joint = create_model(backbone=TINY, encoder="separate", tasks=tasks).eval()
    final = joint(images()).final
    for task in tasks:
        single = create_model(backbone=TINY, tasks=[task]).eval()
        single.load_state_dict(
            {
                name.replace(f"backbones.{task.name}", "backbone"): tensor
                for name, tensor in joint.state_dict().items()
                if task.name in name.split(".")
            }
        )
        assert torch.equal(single(images()).final[task.name], final[task.name])


def test_separate_backbones_start_apart() -> None:
    joint = create_model(backbone=TINY, encoder="separate", tasks=make_tasks())
    pyramids = joint.encoder(images())
    assert not torch.equal(pyramids["semseg"][0], pyramids["depth"][0])


@pytest.mark.parametrize("encoder", ["shared", "separate"])
def test_tasks_do_not_interact_in_the_independent_decoder(encoder: str) -> None:
    network = create_model(backbone=TINY, encoder=encoder, tasks=make_tasks()).eval()
    pyramids = network.encoder(images())
    before = network.decoder(pyramids, (33, 65)).final
    pyramids["depth"] = [level + 1 for level in pyramids["depth"]]
    after = network.decoder(pyramids, (33, 65)).final
    assert torch.equal(after["semseg"], before["semseg"])
    assert not torch.equal(after["depth"], before["depth"])


def test_a_subset_of_pyramids_gives_a_subset_of_predictions() -> None:
    network = create_model(backbone=TINY, tasks=make_tasks()).eval()
    some = network.decoder(network.encoder(images(), tasks=["depth"]), (33, 65)).final
    assert list(some) == ["depth"]
    assert torch.equal(some["depth"], network(images()).final["depth"])


@pytest.mark.parametrize("encoder", ["shared", "separate"])
def test_a_network_survives_a_file(encoder: str, tmp_path: Path) -> None:
    network = create_model(backbone=TINY, encoder=encoder, tasks=make_tasks()).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    restored = create_model(backbone=TINY, encoder=encoder, tasks=make_tasks()).eval()
    restored.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for task, logits in network(images()).final.items():
        assert torch.equal(restored(images()).final[task], logits)


def test_a_network_is_made_of_parts_by_keyword() -> None:
    tasks = make_tasks()
    encoder = Shared(make_backbone=lambda: plait.models.create_backbone(TINY), tasks=["semseg", "depth"])
    decoder = Independent(tasks=tasks, channels=encoder.channels, strides=encoder.strides, head="linear")
    assert MultiTaskNetwork(encoder, decoder, tasks)(images()).final["semseg"].shape == (2, 5, 33, 65)
    with pytest.raises(ConfigurationError, match="made for semseg, depth, expected depth, semseg"):
        MultiTaskNetwork(encoder, decoder, tasks[::-1])


def test_a_backbone_may_be_made_by_a_function() -> None:
    network = create_model(backbone=tiny_backbone, tasks=make_tasks())
    assert network(images()).final["semseg"].shape == (2, 5, 33, 65)
    with pytest.raises(ConfigurationError, match="tiny_backbone makes its own"):
        create_model(backbone=tiny_backbone, pretrained=True, tasks=make_tasks())


def test_a_task_is_predicted_alone_as_among_all() -> None:
    network = create_model(backbone=tiny_backbone, encoder="separate", tasks=make_tasks()).eval()
    alone = network(images(), tasks=["depth"]).final
    assert list(alone) == ["depth"]
    assert torch.equal(alone["depth"], network(images()).final["depth"])
    with pytest.raises(ConfigurationError, match="no task 'dpeth'"):
        network(images(), tasks=["dpeth"])


def test_normalisation_is_the_backbones() -> None:
    half = (0.5, 0.5, 0.5)
    assert create_model(backbone="tf_efficientnet_lite0", tasks=make_tasks()).normalisation == (half, half)
    mean, std = create_model(backbone=TINY, tasks=make_tasks()).normalisation
    assert (mean, std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("test_resnet", "deeplab"), ("test_efficientnet", "fpn"), ("test_convnext", "fpn"), ("test_vit", "fpn")],
)
def test_each_family_has_its_default_head(backbone: str, head: str) -> None:
    decoder = create_model(backbone=backbone, tasks=make_tasks()).decoder
    assert isinstance(decoder, Independent)
    assert decoder.head == head


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backbone": "resnet81"}, r"unknown backbone 'resnet81' \(did you mean 'resnet\d+'\?\)"),
        ({"backbone": "vgg11"}, "backbone 'vgg11' is of timm's family 'vgg', .* there is one for resnet"),
        ({"encoder": "sharde"}, r"unknown encoder 'sharde' \(did you mean 'shared'\?\)"),
        ({"decoder": "independant"}, r"unknown decoder 'independant' \(did you mean 'independent'\?\)"),
        ({"encoder_options": {"alpha": 1}}, "encoder 'shared' has no option 'alpha'"),
        ({"decoder_options": {"haed": "fpn"}}, r"no option 'haed' \(did you mean 'head'\?\)"),
        ({"decoder_options": {"head": "fnp"}}, r"unknown head 'fnp' \(did you mean 'fpn'\?\)"),
        (
            {"decoder_options": {"head_options": {"widht": 3}}},
            r"no option 'widht' \(did you mean 'width'\?\)",
        ),
        (
            {"backbone_options": {"drop_path": 3}},
            r"no option 'drop_path' \(did you mean 'drop_path_rate'\?\)",
        ),
        ({"backbone": "resnet18", "backbone_options": {"output_stride": 4}}, "must be 8, 16 or 32, got 4"),
        ({"backbone": "test_vit", "backbone_options": {"neck": "dpt"}}, "unknown neck 'dpt'.*reassemble"),
        (
            {"backbone": "test_vit", "backbone_options": {"patch_size": 14}},
            "patches of 14 .* patch_size to 16",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value)),
)
def test_what_is_unknown_is_answered(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        create_model(**{"backbone": TINY, "tasks": make_tasks(), **options})


def test_auxiliary_tasks_are_refused_by_name_and_so_is_the_pair() -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_model(backbone=TINY, tasks=make_tasks(depth=True))
    message = str(caught.value)
    for word in ("'shared'", "'independent'", repr(TINY), "auxiliary task depth"):
        assert word in message


def test_batch_norm_stays_frozen_in_training() -> None:
    network = create_model(backbone="test_resnet", tasks=make_tasks(), decoder_options={"head": "fpn"})
    keys = list(network.state_dict())
    count = freeze_batch_norm(network.encoder)
    assert count == sum(isinstance(m, nn.BatchNorm2d) for m in network.encoder.modules())
    assert list(network.state_dict()) == keys
    before = {name: tensor.clone() for name, tensor in network.encoder.state_dict().items()}
    network.train()
    assert network.decoder.training
    sum(logits.sum() for logits in network(images(64, 64)).final.values()).backward()
    for name, buffer in network.encoder.named_buffers():
        assert torch.equal(buffer, before[name]), name
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module, FrozenBatchNorm2d)
            assert not module.training
            assert module.weight.grad is None
    assert freeze_batch_norm(network.encoder) == count


def test_batch_norms_with_activation_freeze_and_others_are_refused() -> None:
    network = create_model(backbone=TINY, tasks=make_tasks()).eval()
    before = network(images()).final["depth"]
    assert freeze_batch_norm(network.encoder) > 0
    network.encoder.train()
    assert torch.equal(network(images()).final["depth"], before)
    with pytest.raises(ConfigurationError, match="cannot freeze a BatchNorm3d"):
        freeze_batch_norm(nn.Sequential(nn.BatchNorm3d(2)))


def test_depths_are_counted_from_the_decoder_in_every_backbone() -> None:
    network = create_model(backbone=TINY, encoder="separate", tasks=make_tasks())
    depths = backbone_depths(network)
    assert set(depths) == {f"encoder.{name}" for name, _ in network.encoder.named_parameters()}
    assert depths["encoder.backbones.semseg.stem.conv_stem.weight"] == 4
    assert {d for n, d in depths.items() if ".depth.stages.3." in n} == {0}


@pytest.mark.parametrize(
    "backbone",
    [TINY]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in [
            "test_resnet",
            "test_convnext",
            "test_vit",
            "hrnet_w18_small_v2",
            "swin_tiny_patch4_window7_224",
        ]
    ],
)
def test_a_network_is_one_graph_to_the_compiler(backbone: str) -> None:
    network = create_model(backbone=backbone, tasks=make_tasks()).eval()
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()).final, network(images()).final)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_resnet", TINY, "hrnet_w18_small_v2"])
def test_the_compiler_with_gradient_checkpointing_counts_a_batch_once(backbone: str) -> None:
    def trained(compiled: bool) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(0)
        torch.compiler.reset()
        network = create_model(
            backbone=backbone,
            tasks=make_tasks(),
            backbone_options={"gradient_checkpointing": True},
            decoder_options={"head": "fpn"},
        ).train()
        run = torch.compile(network, backend="aot_eager") if compiled else network
        sum(logits.mean() for logits in run(images(64, 64)).final.values()).backward()
        return list(network.buffers()), [p.grad for p in network.parameters() if p.grad is not None]

    for plain, compiled in zip(trained(False), trained(True), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["shared", "separate"])
def test_a_few_steps_learn_a_small_batch(encoder: str) -> None:
    torch.manual_seed(0)
    network = create_model(backbone=TINY, encoder=encoder, tasks=make_tasks())
    target = torch.linspace(1, 3, 64).expand(2, 1, 64, 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = (network(images(64, 64)).final["depth"] - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"width": 3},
            r"it takes head, head_options; its head's own go into head_options$",
        ),
        ({"channels": 3}, "gets 'channels' from the program: leave that option out"),
        ({"head": 3}, "'head' of decoder 'independent' must be text or null, got 3"),
        (
            {"head": "fpn", "head_options": {"widht": 3}},
            r"did you mean 'width'\?\); it takes width \(enc",
        ),
        ({"head": "linear", "head_options": {"width": 3}}, "no option 'width'; it takes none"),
        (
            {"head": "fpn", "head_options": {"width": "x"}},
            "of head 'fpn' must be a whole number, got 'x'",
        ),
        ({"head": ""}, "unknown head ''; known are deeplab"),
        ({"head": "fpn", "head_options": {"width": 0}}, "width must be 1 or more, got 0"),
        ({"head": "deeplab", "head_options": {"width": -3}}, "width must be 1 or more, got -3"),
        ({"head": "deeplab", "head_options": {"rates": 12}}, "a list .each a whole number., got 12"),
        ({"head": "deeplab", "head_options": {"rates": [12, 0]}}, "rates must be 1 or more, got 0"),
        ({"head": "deeplab", "head_options": {"dropout": 2}}, "dropout must be from 0 to 1, got 2"),
    ],
)
def test_a_wrong_option_of_a_decoder_or_head_is_answered_in_a_sentence(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        create_model(backbone=TINY, tasks=make_tasks(), decoder_options=options)


def test_a_network_takes_a_declaration_of_tasks_and_refuses_bare_names() -> None:
    network = create_model(backbone=TINY, tasks={"z": {"kind": "depth"}})
    assert [task.name for task in network.tasks] == ["z"]
    with pytest.raises(ConfigurationError, match=r"expected tasks, got 'z': declare them"):
        create_model(backbone=TINY, tasks=["z"])  # type: ignore[list-item]


def test_a_wrong_option_of_a_backbone_is_answered_in_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match="of backbone 'resnet18' must be a whole number, got '8'"):
        create_model(backbone="resnet18", tasks=make_tasks(), backbone_options={"output_stride": "8"})
