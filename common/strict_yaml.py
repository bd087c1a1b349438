"""YAML that says one thing: plain values alone, no key twice, and not much more of it than was written.

PyYAML keeps the last of two equal keys without a word. A reference (`*name`, `<<: *name`) stands for all that it refers
to: a few lines of references to references stand for more than any memory holds, and any comparison walks through it.
"""

from typing import Any

import yaml

MOST_VALUES = 100_000  # with every reference written out; a file as large as is read at all holds fewer


def load(text: str) -> Any:
    """The value that YAML text stands for. Raises ValueError and yaml.YAMLError, which name the line."""
    return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader: nothing is run)


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Composes a mapping as it is written: what is merged in later may be there, too, and is overridden."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if name in lines:
                    raise ValueError(f"line {line}: {key.value!r} is there twice, first in line {lines[name]}")
                lines[name] = line
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Composes the document, and counts its values before any is made."""
        root = super().get_single_node()
        if root is not None:
            _count(root, {})
        return root


def _count(node: yaml.Node, counts: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for; `counts` holds those that were counted, None for those that are being."""
    if node not in counts:
        counts[node] = None
        within = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for item in within for part in (item if isinstance(item, tuple) else (item,)))
        counts[node] = 1 + sum(_count(part, counts) for part in parts)
        if counts[node] > MOST_VALUES:
            raise ValueError(f"line {node.start_mark.line + 1}: its references stand for over {MOST_VALUES:,} values")
    if counts[node] is None:
        raise ValueError(f"line {node.start_mark.line + 1}: it refers to itself")
    return counts[node]
