#!/usr/bin/env python3
"""Checks a report page: well-formed as XML, no reference outside itself, unique ids, anchors that lead somewhere."""
import re
import sys
import xml.etree.ElementTree as ET

XHTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
LOADS = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "ping", "{http://www.w3.org/1999/xlink}href"}
TAGS = set("html head meta title style body header main section nav footer div span p b a small sup h1 h2 h3 dl dt dd ol li "
           "figure figcaption table thead tbody tr th td details summary pre article script".split())
SHAPES = set("svg g title line polyline polygon rect circle text".split())


def main() -> int:
    problems = []
    root = ET.parse(sys.argv[1]).getroot()
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    problems += [f"id twice: {name}" for name in set(ids) if ids.count(name) > 1]
    for element in root.iter():
        name = element.tag
        known = name[len(XHTML):] in TAGS if name.startswith(XHTML) else name[len(SVG):] in SHAPES
        if not known:
            problems.append(f"unexpected element {name}")
        for key, value in element.attrib.items():
            if key in LOADS and not (value.startswith("#") and value[1:] in ids):
                problems.append(f"{name} {key}={value[:60]}")
            if key.startswith("on") or key == "style":
                problems.append(f"{name} has {key}")
    style = "".join(element.text for element in root.iter(XHTML + "style"))
    problems += [f"style loads: {found}" for found in re.findall(r"url\([^)]*\)|@import|@font-face", style)]
    scripts = [element.text for element in root.iter(XHTML + "script")]
    if len(scripts) != 1:
        problems.append(f"{len(scripts)} scripts")
    problems += [f"script loads: {word}" for word in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "http:", "https:")
                 if any(word in script for script in scripts)]
    if not any("Content-Security-Policy" == element.get("http-equiv") for element in root.iter(XHTML + "meta")):
        problems.append("no Content-Security-Policy")
    print("\n".join(problems[:20]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
