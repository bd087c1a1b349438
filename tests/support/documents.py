"""JSON documents with one thing changed."""

import copy

MISSING = object()


def changed(document, path: list, value):
    """A copy of the document with the node at `path` replaced, or removed."""
    document = node = copy.deepcopy(document)
    for step in path[:-1]:
        node = node[step]
    if value is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


def paths(node, path=()):
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [each for key, child in children for each in ([*path, key], *paths(child, (*path, key)))]
