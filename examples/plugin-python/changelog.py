"""Reading a change log (<https://keepachangelog.com>); needs no host."""

import re
from dataclasses import dataclass

HEADING = re.compile(r"^## \[?(?P<version>[^\]\s]+)\]?(?: - (?P<date>\S+))?\s*$")
ITEM = re.compile(r"^[-*] +(?P<text>.+)$")


@dataclass
class Release:
    version: str
    date: str | None
    items: list[str]


def releases(text: str) -> list[Release]:
    """The releases in the order of the file."""
    found: list[Release] = []
    for line in text.splitlines():
        if heading := HEADING.match(line):
            found.append(Release(heading["version"], heading["date"], []))
        elif found and (item := ITEM.match(line)):
            found[-1].items.append(item["text"])
    return found


def release(text: str, version: str) -> Release | None:
    """The release of this version, with or without a `v` in front."""
    wanted = version.removeprefix("v")
    for one in releases(text):
        if one.version.removeprefix("v") == wanted:
            return one
    return None
