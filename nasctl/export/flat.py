"""Layer 4: a trained module as one flat graph of torch's own layers, for inference.

Batch norms are folded into the convolutions before them (Jacob et al. 2018, section 3.2); dropout
and identities go. What is left has plain names and can be written down, exported and read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasctl.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from torch import fx, nn


def flatten(module: nn.Module) -> fx.GraphModule:
    """The same function of an image in evaluation mode, as one graph.

    Args:
        module: any; stays as it is.

    Returns:
        Parameters are copies; names are those of `module` with `_` for each dot.

    Raises:
        EnvironmentProblemError: its `forward` decides something that depends on the image, so that
            there is no one graph.
    """
    import copy

    from torch import fx

    model = copy.deepcopy(module).cpu().eval()
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # whatever a user's own forward raises at symbols for tensors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblemError(
            f"{type(module).__name__}: there is no one graph of it: {reason}"
        ) from error
    traced = _renamed(model, graph)
    _drop_idle(traced)
    _fold_batch_norms(traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def _renamed(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    from torch import fx, nn

    root = nn.Module()
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        owner, _, last = node.target.rpartition(".")
        value = getattr(model.get_submodule(owner), last)
        name = "block" + node.target.replace(".", "_")
        if isinstance(value, nn.Module | nn.Parameter):
            setattr(root, name, value)
        else:
            root.register_buffer(name, value.contiguous().clone())  # no view of something larger
        node.target = name
    return fx.GraphModule(root, graph)


def _drop_idle(traced: fx.GraphModule) -> None:
    """What does nothing in evaluation mode."""
    from torch import nn

    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(
            traced.get_submodule(node.target), nn.Identity | nn.Dropout | nn.Dropout2d
        ):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
            if not any(n.target == node.target for n in traced.graph.nodes):
                traced.delete_submodule(node.target)


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    """Of each that is all that reads a convolution's output."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    calls = [n for n in traced.graph.nodes if n.op == "call_module"]
    for node in calls:
        norm, before = traced.get_submodule(node.target), node.args[0]
        if not (isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats):
            continue
        if before.op != "call_module" or len(before.users) > 1:
            continue
        conv = traced.get_submodule(before.target)
        shared = sum(n.target in (before.target, node.target) for n in calls) > 2
        if not isinstance(conv, nn.Conv2d) or shared:
            continue
        setattr(traced, before.target, fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
        traced.delete_submodule(node.target)
