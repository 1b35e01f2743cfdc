"""`changelog-check`: refuses a release that the change log does not describe."""

import json

import changelog
from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.step import Description, OutputSpec, OutputType
from wit_world.imports import blobs, context, log
from wit_world.imports.types import Error, ErrorKind
from wit_world.imports.values import Part_Text

# Bytes of the file that are looked at; the newest releases are at its top.
MAX_BYTES = 256 * 1024

# The host checks `with` against this, before the plugin runs.
CONFIG = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "file": {
            "type": "string",
            "default": "CHANGELOG.md",
            "description": "The change log, relative to the project's root.",
        },
        "version": {
            "type": "string",
            "description": "The version that must be there; the run's tag when absent.",
        },
    },
}


class Step(exports.Step):
    def describe(self) -> Description:
        return Description(
            name="changelog-check",
            version="0.1.0",
            summary="Refuse a release that the change log does not describe",
            config_schema=json.dumps(CONFIG),
            outputs=[
                OutputSpec("notes", OutputType.TEXT, "Its items, one a line"),
                OutputSpec("count", OutputType.NUMBER, "How many there are"),
            ],
            requests=["file.read {{ file | default('CHANGELOG.md') }}"],
            has_preflight=False,
            has_rollback=False,
        )

    def run(self) -> None:
        config = json.loads(context.config())
        file = config.get("file", "CHANGELOG.md")
        version = config.get("version") or context.facts().tag
        text = blobs.open(file).read(0, MAX_BYTES).decode(errors="replace")
        release = changelog.release(text, version)
        if release is None:
            raise failure(
                "changelog-check.missing",
                f"{file} says nothing of {version}",
                f"add a section `## {version}`",
            )
        if not release.items:
            raise failure(
                "changelog-check.empty",
                f"{file} lists no change under {version}",
                "say what changed, one `- ` item each",
            )
        for item in release.items:
            log.write(log.Level.INFO, item)
        context.output("notes", [Part_Text("\n".join(release.items))])
        context.output_json("count", json.dumps(len(release.items)))


def failure(code: str, message: str, hint: str) -> Err:
    """An expected failure; any other exception is shown as a bug of the plugin."""
    return Err(Error(ErrorKind.INVALID, code, message, hint, False))
