"""XMP: the description (dc:description) is read, and put into a packet without touching what else it says.

Source: ISO 16684-1 (XMP), 7.9.2.2 for several rdf:Description elements, 8.3 for the Dublin Core properties.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_DESCRIPTION = "http://purl.org/dc/elements/1.1/ description"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # Source: XML 1.0, 2.2
_TAG = re.compile(rb"<([^\s/>]+)")
_ELEMENT = (
    '<rdf:Description xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" rdf:about="{about}"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description></rdf:Description>'
)
_DOCUMENT = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="edge-llava">\n'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n{element}\n</rdf:RDF>\n</x:xmpmeta>\n'
)
_PACKET = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{document}<?xpacket end="w"?>'
_SIDECAR = '<?xml version="1.0" encoding="UTF-8"?>\n{document}'


def clean(text: str) -> str:
    """The text as XML can hold it: what is not a character is replaced, and lines end with a line feed."""
    return _NOT_XML.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def find_description(packet: bytes) -> str:
    """The description in a packet, in any language; empty if there is none.

    Raises:
        ValueError: If the packet is not XMP in UTF-8.
    """
    return _read(packet).text.strip()


def set_description(packet: bytes, text: str) -> bytes:
    """The packet with this description in place of its own.

    Raises:
        ValueError: If the packet is not XMP in UTF-8, or has its description in a place that is not edited here.
    """
    found = _read(packet)
    if found.is_attribute:
        raise ValueError("its XMP has the description as an attribute, which is not edited here")
    element = _ELEMENT.format(about=escape(found.about, {'"': "&quot;"}), text=escape(clean(text)))
    for start, end in reversed(found.descriptions):
        packet = packet[:start] + packet[end:]
        found.end -= (end - start) * (start < found.end)
    return packet[: found.end] + element.encode() + b"\n" + packet[found.end :]


def new_packet(text: str, *, for_sidecar: bool = False) -> bytes:
    """A packet that says nothing but this description: for an image, or for a file of its own."""
    element = _ELEMENT.format(about="", text=escape(clean(text)))
    form = _SIDECAR if for_sidecar else _PACKET
    return form.format(document=_DOCUMENT.format(element=element)).encode()


@dataclass
class _Found:
    """What a packet says.

    Attributes:
        text: The description's own, or what stands in its place.
        about: The resource that all properties are about.
        descriptions: Where its dc:description elements begin and end, in bytes.
        end: Where the closing tag of rdf:RDF begins; -1 if there is none.
        is_attribute: Whether a description is an attribute and not an element, as XMP forbids.
    """

    text: str = ""
    about: str = ""
    descriptions: list[tuple[int, int]] = field(default_factory=list)
    end: int = -1
    is_attribute: bool = False


def _read(packet: bytes) -> _Found:
    packet.decode()  # UTF-16 would have other offsets
    reader = _Reader(packet)
    try:
        reader.parser.Parse(packet, True)
    except expat.ExpatError as error:
        raise ValueError(f"its XMP is not XML: {error}") from error
    if reader.found.end < 0:
        raise ValueError("its XMP has no rdf:RDF with content")
    return reader.found


class _Reader:
    """One pass over a packet."""

    def __init__(self, packet: bytes) -> None:
        self.found = _Found()
        self._packet, self._path = packet, list[str]()
        self._starts = list[int]()  # of the elements in the path
        self.parser = expat.ParserCreate("utf-8", " ")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._read_text

    def _refuse(self, *unused: object) -> None:
        raise ValueError("its XMP declares entities")  # which may grow without end

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._starts.append(self.parser.CurrentByteIndex)
        if self._path[-2:] == [f"{_RDF}RDF", f"{_RDF}Description"]:
            self.found.about = self.found.about or attributes.get(f"{_RDF}about", attributes.get("about", ""))
            if _DESCRIPTION in attributes:
                self.found.text += attributes[_DESCRIPTION]
                self.found.is_attribute = True

    def _end(self, name: str) -> None:
        at, start = self.parser.CurrentByteIndex, self._starts.pop()
        self._path.pop()
        tag = _TAG.match(self._packet, start)
        is_closed_by_tag = tag is not None and self._packet.startswith(b"</" + tag[1], at)  # and not <a/>
        if name == _DESCRIPTION and _DESCRIPTION not in self._path:
            self.found.descriptions.append((start, self._packet.index(b">", at) + 1 if is_closed_by_tag else at))
        elif name == f"{_RDF}RDF" and is_closed_by_tag:
            self.found.end = at

    def _read_text(self, text: str) -> None:
        if _DESCRIPTION in self._path:
            self.found.text += text
