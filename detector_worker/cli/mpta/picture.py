"""A pipeline as a picture: the detector, the stable visit, what follows it in its order, and what runs side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from detector_worker.cli.mpta.description import (
    ActionView,
    BranchView,
    ModelView,
    PipelineView,
    class_text,
    shown,
    size_text,
)
from detector_worker.cli.mpta.drawing import Page, text_width, wrap

__all__ = ["pipeline_svg"]

_WIDTH: Final = 1120.0
_MARGIN: Final = 32.0
Point = tuple[float, float]
_GAP: Final = 28.0
_PAD: Final = 14.0
_LINE: Final = 17.0
_TEXT_PX: Final = 12.0
_HEAD: Final = 48.0
_WIRE: Final = 50.0
_MAX_ROWS: Final = 24
_MAX_CARDS: Final = 60
_MAX_NESTING: Final = 4
_MAX_CARD_PX: Final = 520.0
_PER_ROW: Final = 3
_ACTIONS: Final = {
    "postgresql_create_record": ("postgresql", "table", "create a record"),
    "postgresql_update": ("postgresql", "table", "update the record"),
    "postgresql_update_combined": ("postgresql", "table", "update the record"),
    "redis_save_image": ("redis", "key", "store a picture"),
    "publish_message": ("publish", "channel", "publish"),
    "redis_publish": ("publish", "channel", "publish"),
}
"""Of each kind of action: its colour, what its target is, and what it does."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a card: a word, and what it is."""

    label: str
    value: str
    is_code: bool = False
    is_field: bool = False
    """The label is a name out of the archive, too."""


@dataclass(frozen=True, slots=True)
class _Card:
    kind: str
    title: str
    subtitle: str
    rows: tuple[_Row, ...]
    inner: tuple["_Card", ...] = ()


def pipeline_svg(view: PipelineView) -> str:
    """Draw a pipeline; returns an SVG file of bounded size, whatever the archive holds."""
    page, y = Page(_WIDTH), _MARGIN
    page.text(_MARGIN, y + 14, view.archive, "title", size_px=18)
    page.text(_WIDTH - _MARGIN, y + 14, f"sha256 {view.sha256[:16]}…", "dim code", size_px=11, anchor="end")
    y += 36
    ends: list[Point] = []
    for heading, cards, in_order in _stages(view):
        y += _WIRE if ends else 0
        page.text(_MARGIN, y - 10, heading, "dim", size_px=12)
        starts, next_ends, bottom = _draw_cards(page, cards, y, in_order=in_order)
        _connect(page, ends, starts, rail=y - _WIRE + 12)
        ends, y = next_ends, bottom
    return page.svg(y + _MARGIN, f"The pipeline of {view.archive}")


def _stages(view: PipelineView) -> Iterator[tuple[str, list[_Card], bool]]:
    """Yield what comes after one another: a heading, cards, and whether these have an order among them."""
    yield "", [_model_card(view.detector, "detector", ())], False
    visit = tuple(_Row(name, value) for name, value in view.visit.items())
    yield "", [_Card("visit", "stable visit", "once for each real object", visit)], False
    if view.actions:
        yield "actions, in this order", _bounded([_action_card(one) for one in view.actions]), True
    if view.branches:
        yield "branches", _bounded([_branch_card(branch, 0) for branch in view.branches]), False
    if view.parallel_actions:
        yield "then, in this order", _bounded([_action_card(one) for one in view.parallel_actions]), True


def _bounded(cards: list[_Card]) -> list[_Card]:
    left = len(cards) - _MAX_CARDS
    return [*cards[:_MAX_CARDS], _Card("note", f"and {left} more", "not drawn", ())] if left > 0 else cards


def _model_card(model: ModelView, kind: str, more: Sequence[_Row], inner: tuple[_Card, ...] = ()) -> _Card:
    width, height = model.input_wh
    outputs = [
        f"{shown(name, 40)} {list(shape)}" for name, shape in model.outputs.items() if name in model.read_outputs
    ]
    rows = (
        _Row("file", f"{model.file}, {size_text(model.file_bytes)}"),
        _Row("input", f"{width} × {height}{', open size' if model.is_open_size else ''}"),
        _Row("pixels", f"{model.pixels}, {model.fitting}"),
        _Row("output", ", ".join(outputs), is_code=True),
        _Row("symbols" if model.model_type == "ocr" else "classes", class_text(model)),
        _Row("confidence", f"at least {model.min_confidence:g}"),
        *more,
    )
    return _Card(kind, model.model_id, model.kind, rows, inner)


def _branch_card(branch: BranchView, depth: int) -> _Card:
    rows = [_Row("sees", branch.sees), *(_Row(name, value) for name, value in branch.details.items())]
    rows.append(_Row("gives", f"{{{branch.result}}}", is_code=True))
    inner = [_action_card(action) for action in branch.actions]
    if depth < _MAX_NESTING:
        inner += [_branch_card(one, depth + 1) for one in branch.branches]
    elif branch.branches:
        inner.append(_Card("note", f"and {len(branch.branches)} branches below", "not drawn", ()))
    return _model_card(branch.model, "branch", rows, tuple(_bounded(inner)))


def _action_card(action: ActionView) -> _Card:
    kind, label, name = _ACTIONS.get(action.type, ("note", "target", action.type))
    rows = [_Row(label, action.target, is_code=True), *(_Row(name, value) for name, value in action.details.items())]
    rows += [_Row(name, value, is_code=True, is_field=True) for name, value in action.fields.items()]
    return _Card(kind, name if action.name == action.type else f"{name}: {action.name}", action.type, tuple(rows))


def _draw_cards(
    page: Page, cards: Sequence[_Card], y: float, *, in_order: bool
) -> tuple[list[Point], list[Point], float]:
    """Draw cards in as many rows as they need; returns where wires come in and go out, and where the last row ends."""
    rows = -(-len(cards) // _PER_ROW)
    per_row = -(-len(cards) // rows)
    width = min(_MAX_CARD_PX, (_WIDTH - 2 * _MARGIN - (per_row - 1) * _GAP) / per_row)
    tops, bottoms = list[Point](), list[Point]()
    for first in range(0, len(cards), per_row):
        row = cards[first : first + per_row]
        left = (_WIDTH - len(row) * width - (len(row) - 1) * _GAP) / 2
        for index, card in enumerate(row):
            x, number = left + index * (width + _GAP), first + index
            _draw_card(page, card, x, y, width, number=f"{number + 1}" if in_order and len(cards) > 1 else "")
            if in_order and index:
                page.arrow((x - _GAP, y + 24), (x - 2, y + 24))
            tops.append((x + width / 2, y))
            bottoms.append((x + width / 2, y + _height(card, width)))
            if in_order and number and not index:
                _connect(page, bottoms[-2:-1], tops[-1:], rail=y - _GAP / 2)
        bottom = y + max(_height(card, width) for card in row)
        y = bottom + _GAP
    if in_order:
        return tops[:1], bottoms[-1:], bottom
    return tops[:per_row], bottoms[-len(row) :], bottom


def _connect(page: Page, ends: Sequence[Point], starts: Sequence[Point], *, rail: float) -> None:
    """Draw wires from each end down to a rail that lies below all of them, and on to each start."""
    if not ends:
        return
    for x, y in ends:
        page.line((x, y), (x, rail))
    middles = [x for x, _ in (*ends, *starts)]
    page.line((min(middles), rail), (max(middles), rail))
    for x, y in starts:
        page.arrow((x, rail), (x, y - 2))


def _lines(row: _Row, width: float) -> list[str]:
    return wrap(row.value, width, _TEXT_PX, lines=3, is_code=row.is_code)


def _label_px(card: _Card, width: float) -> float:
    """How wide the column of labels is: as the longest needs, but less than half."""
    longest = max((text_width(shown(row.label, 40), _TEXT_PX, is_code=row.is_field) for row in card.rows), default=0.0)
    return min(longest + 12, (width - 2 * _PAD) * 0.46)


def _height(card: _Card, width: float) -> float:
    room = width - 2 * _PAD - _label_px(card, width)
    count = sum(len(_lines(row, room)) for row in card.rows[:_MAX_ROWS]) + (len(card.rows) > _MAX_ROWS)
    inner = sum(_height(one, width - 2 * _PAD) + 10 for one in card.inner)
    return _HEAD + count * _LINE + (_PAD - 4 if card.rows else 2) + inner + (4 if inner else 0)


def _draw_card(
    page: Page, card: _Card, x: float, y: float, width: float, *, number: str = "", is_inner: bool = False
) -> None:
    page.box(x, y, width, _height(card, width), "inner" if is_inner else "card")
    page.box(x, y + 10, 4, 28, card.kind, radius=2)
    room = width - 2 * _PAD - (20 if number else 0)
    page.text(x + _PAD, y + 22, wrap(card.title, room, 14, lines=1)[0], "title", size_px=14)
    page.text(x + _PAD, y + 38, wrap(card.subtitle, room, 11, lines=1)[0], "dim", size_px=11)
    if number:
        page.text(x + width - _PAD, y + 22, number, "dim title", size_px=14, anchor="end")
    labels = _label_px(card, width)
    line = y + _HEAD + 12
    for row in card.rows[:_MAX_ROWS]:
        label = wrap(row.label, labels - 8, _TEXT_PX, lines=1, is_code=row.is_field)[0]
        page.text(x + _PAD, line, label, "dim code" if row.is_field else "dim", size_px=_TEXT_PX)
        for text in _lines(row, width - 2 * _PAD - labels):
            page.text(x + _PAD + labels, line, text, "code" if row.is_code else "", size_px=_TEXT_PX)
            line += _LINE
    if len(card.rows) > _MAX_ROWS:
        page.text(x + _PAD, line, f"and {len(card.rows) - _MAX_ROWS} more", "dim", size_px=_TEXT_PX)
        line += _LINE
    for inner in card.inner:
        _draw_card(page, inner, x + _PAD, line, width - 2 * _PAD, is_inner=True)
        line += _height(inner, width - 2 * _PAD) + 10
