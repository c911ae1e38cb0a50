"""A pipeline as a tree in the terminal."""

from collections.abc import Mapping, Sequence

from rich.text import Text
from rich.tree import Tree

from detector_worker.cli.mpta.description import (
    ActionView,
    BranchView,
    ModelView,
    PipelineView,
    class_text,
    shown,
    size_text,
)

__all__ = ["pipeline_tree"]


def pipeline_tree(view: PipelineView) -> Tree:
    """Draw the whole of an archive; every text in it is shown literally."""
    root = Tree(Text.assemble((shown(view.archive), "bold"), f"  sha256 {view.sha256[:16]}…"))
    _add_model(root, view.detector)
    _add_facts(root.add(Text("stable visit", "bold yellow")), view.visit)
    _add_actions(root, "actions", view.actions)
    for branch in view.branches:
        _add_branch(root, branch)
    _add_actions(root, "then", view.parallel_actions)
    if view.tables:
        tables = root.add(Text("tables", "bold"))
        for name, columns in view.tables.items():
            _add_facts(tables.add(Text(shown(name), "green")), columns)
    for warning in view.warnings:
        root.add(Text.assemble(("warning ", "bold red"), shown(warning, 300)))
    return root


def _add_model(parent: Tree, model: ModelView) -> Tree:
    node = parent.add(Text.assemble((shown(model.model_id), "bold cyan"), f"  {model.kind}"))
    width, height = model.input_wh
    outputs = [f"{shown(name, 60)} {list(shape)}" for name, shape in model.outputs.items()]
    facts = {
        "file": f"{model.file}, {size_text(model.file_bytes)}",
        "input": f"{width} × {height}{', open size' if model.is_open_size else ''}; {model.pixels}, {model.fitting}",
        "outputs": ", ".join(outputs[:8]),
        "read": ", ".join(model.read_outputs),
        "symbols" if model.model_type == "ocr" else "classes": class_text(model),
        "confidence": f"at least {model.min_confidence:g}",
    }
    if len(model.outputs) == 1:
        del facts["read"]
    _add_facts(node, facts)
    return node


def _add_branch(parent: Tree, branch: BranchView) -> None:
    node = _add_model(parent, branch.model)
    _add_facts(node, {"sees": branch.sees, "result": branch.result, **branch.details})
    _add_actions(node, "actions", branch.actions)
    for inner in branch.branches:
        _add_branch(node, inner)


def _add_actions(parent: Tree, title: str, actions: Sequence[ActionView]) -> None:
    if not actions:
        return
    node = parent.add(Text(title, "bold"))
    for number, action in enumerate(actions, 1):
        name = "" if action.name == action.type else f" {shown(action.name, 60)}"
        heading = f"{number}. ", (shown(action.type), "magenta"), name, f"  {shown(action.target)}"
        inner = node.add(Text.assemble(*heading))
        _add_facts(inner, action.details)
        _add_facts(inner, action.fields, sign=" = ")


def _add_facts(node: Tree, facts: Mapping[str, str], *, sign: str = ": ") -> None:
    for name, value in facts.items():
        node.add(Text.assemble((shown(name, 70), "dim"), sign, shown(value, 400)))
