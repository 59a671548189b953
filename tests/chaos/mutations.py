"""Messages and records as nobody would write them: good ones with something changed, cut off or wrapped."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import strategies as st

Json = Any

UNTOUCHED = ("eta", "expires")
"""What would only let a message wait, for hours maybe."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([2**63, -(2**70), 1e308, -1.5, "", "\x00", "🦀", "../..", "None", "{}", "9" * 400]),
    st.text(max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def paths(tree: Json, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value can be changed: every key and index of a tree, the inner ones too."""
    found: list[tuple[Any, ...]] = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if key not in UNTOUCHED:
            found += [(*at, key), *paths(value, (*at, key))]
    return found


def holder(tree: Json, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """What holds the value at one of a tree's `paths`, and under which key or index."""
    *way, last = path
    for key in way:
        tree = tree[key]
    return tree, last


@st.composite
def changed(draw: st.DrawFn, tree: Json) -> Json:
    """A copy of a tree with up to three of its values replaced, removed, or moved."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        places = paths(tree)
        if not places:
            break
        parent, last = holder(tree, draw(st.sampled_from(places)))
        action = draw(st.sampled_from(["replace", "replace", "remove", "wrap"]))
        if action == "remove":
            del parent[last]
        else:
            parent[last] = draw(values) if action == "replace" else [parent[last]]
    return tree


class Good(list[dict[str, Any]]):
    """Good messages, which Hypothesis is not to print whenever it tells of what it made of them."""

    def __repr__(self) -> str:
        return "good"


@st.composite
def messages(draw: st.DrawFn, good: Good) -> str:
    """A message of kombu's Redis transport, mutated: its envelope, its headers, its body, or its very text."""
    message = json.loads(json.dumps(draw(st.sampled_from(good))))
    how = draw(st.sampled_from(["laravel", "laravel", "headers", "envelope", "body", "bytes", "text"]))
    if how == "laravel":
        header = message["headers"].get("laravel") or {"v": 1}
        message["headers"]["laravel"] = draw(st.one_of(changed(header), values))
    elif how == "headers":
        message["headers"] = draw(changed(message["headers"]))
    elif how == "envelope":
        message = draw(changed(message))
    elif how == "body":
        body = draw(changed(json.loads(base64.b64decode(message["body"]))))
        message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    elif how == "bytes":
        message["body"] = base64.b64encode(draw(st.binary(max_size=40))).decode()
    text = json.dumps(message)
    return text[: draw(st.integers(0, len(text)))] if how == "text" else text
