"""Write what is generated in the chart: `python charts/generate.py`, or `make chart`.

- The values in `README.md`, and `values.schema.json`, from the comments in `values.yaml`;
- the template of the CustomResourceDefinition, and the copy of it that `kubectl incumbent doctor`
  compares with, from `crds/`.
"""  # noqa: INP001  # a script

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "incumbent"
DEFINITION = Path(__file__).parents[1] / "crds" / "leaderelections.yaml"
COPY = Path(__file__).parents[1] / "operator" / "incumbent" / "kubectl" / DEFINITION.name
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


class Value:
    """A documented value: its path, its default, its comment, and its part of the schema."""

    def __init__(self, path: tuple[str, ...], default: Any, text: str, schema: str) -> None:
        self.path = path
        self.default = default
        self.text = text
        self.schema = {"type": TYPES[type(default)], "description": text}
        self.schema |= json.loads(schema or "{}")
        if self.schema["type"] == "object":
            self.schema.setdefault("additionalProperties", False)


def values(text: str) -> Iterator[Value]:
    """Read the documented values of a values.yaml; what is below such a one is its default.

    Raises:
        ValueError: a value has no comment.
    """
    defaults = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    schema = ""
    documented: tuple[str, ...] = ()
    for line in text.splitlines():
        if match := re.match(r" *# @schema (.*)", line):
            schema += match[1]
        elif match := re.match(r" *# (-- )?(.*)", line):
            # A comment without the mark is about the file, and belongs to no value.
            comment = [match[2]] if match[1] else comment and [*comment, match[2]]
        elif match := re.match(r"( *)([a-zA-Z]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if documented and tuple(path[: len(documented)]) == documented:
                continue
            default: Any = defaults
            for name in path:
                default = default[name]
            documented = ()
            if comment:
                documented = tuple(path)
                yield Value(documented, default, " ".join(comment), schema)
            elif not isinstance(default, dict) or not default:
                msg = f"{'.'.join(path)} has no comment"
                raise ValueError(msg)
            comment, schema = [], ""
        elif not line.strip():
            comment = []


def schema_of(found: list[Value]) -> dict[str, Any]:
    """Return a schema that knows these values and no others, but is content with a sub-chart."""
    top = _object()
    for value in found:
        parent = top
        for name in value.path[:-1]:
            parent = parent["properties"].setdefault(name, _object())
        parent["properties"][value.path[-1]] = value.schema
    # A parent chart's condition for this one, and what it gives to all its charts.
    top["properties"]["enabled"] = {
        "type": "boolean",
        "description": "Not read here: whether a chart that has this one as a part installs it.",
    }
    top["properties"]["global"]["additionalProperties"] = True
    return {"$schema": "http://json-schema.org/draft-07/schema#", **top}


def _object() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def table_of(found: list[Value]) -> str:
    """Return the values as a table of Markdown."""
    rows = ["| value | default | |", "|---|---|---|"]
    for value in found:
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.text} |")
    return "\n".join(rows) + "\n"


def definition_of(text: str) -> str:
    """Return the template of a CustomResourceDefinition, with the labels and what keeps it."""
    _, _, text = text.partition("\napiVersion:")
    head, name, rest = re.split(r"(\n  name: \S+\n)", f"apiVersion:{text}", maxsplit=1)
    rest = rest.removeprefix("  annotations:\n    helm.sh/resource-policy: keep\n")
    rest = re.sub(r"\{\{.*?\}\}", lambda match: "{{ " + json.dumps(match[0]) + " }}", rest)
    return (
        "{{- /* Written by `make chart` from crds/. */ -}}\n"
        '{{- if and .Values.crds.enabled (not (include "incumbent.foreignDefinition" .)) }}\n'
        f"{head}{name}"
        "  labels:\n"
        '    {{- include "incumbent.labels" (dict "root" . "labels" .Values.crds.labels)'
        " | nindent 4 }}\n"
        "  {{- $keep := ternary"
        ' (dict "helm.sh/resource-policy" "keep") (dict) .Values.crds.keep }}\n'
        '  {{- with include "incumbent.annotations" (dict "root" . "annotations"'
        " (merge (dict) $keep .Values.crds.annotations)) | trim }}\n"
        "  {{- nindent 2 . }}\n"
        "  {{- end }}\n"
        f"{rest}"
        "{{- end }}\n"
    )


def generated() -> Mapping[Path, str]:
    """Return what the generated files have to contain."""
    found = list(values((CHART / "values.yaml").read_text()))
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    schema = json.dumps(schema_of(found), indent=2, ensure_ascii=False)
    return {
        readme: f"{before}{BEGIN}{table_of(found)}{END}{after}",
        CHART / "values.schema.json": f"{schema}\n",
        CHART / "templates" / "crd.yaml": definition_of(DEFINITION.read_text()),
        COPY: DEFINITION.read_text(),
    }


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content)
