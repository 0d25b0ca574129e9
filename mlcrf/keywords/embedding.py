"""Keywords inside an image: planned as in a sidecar, written by exiftool, and checked after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlcrf.keywords.exiftool import ExifTool, ExifToolError
from mlcrf.keywords.image_parts import ImageParts, pixels_of, working_copy
from mlcrf.keywords.keyword_lists import SUBJECT, fold_level
from mlcrf.keywords.retagging import Author, Retagged, Tag, marked_names, retag
from mlcrf.keywords.sealing import without_wrapper
from mlcrf.keywords.xmp import Packet

_WRAPPER = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n%b\n<?xpacket end="w"?>'
)
_PLAIN = (b"<?xpacket", b"<x:", b"<rdf:")
_MAX_XMP = 60_000  # a segment of a JPEG has at most 65,533 bytes

# A TIFF may hold data that no tag tells of, which exiftool leaves out; structures and IPTC may
# become smaller. It was 14 bytes at most in files of exiftool's and PhotoPrism's tests.
_MAX_LOSS = 1000


@dataclass(frozen=True)
class EmbeddingPlan:
    """New keywords of an image that are not written yet.

    Attributes:
        kind: see `image_parts.kind_of`.
    """

    kind: str
    before: ImageParts
    after: Retagged

    @property
    def theirs(self) -> set[str]:
        """The person's keywords in IPTC."""
        ours = _marked(self.before.xmp)
        there = self.before.iptc.keywords if self.before.iptc else ()
        return {name for name in there if fold_level(name) not in ours}

    @property
    def new_xmp(self) -> bytes | None:
        """The new XMP, as UTF-8 without a wrapper."""
        content = self.after.content
        if content is not None and not content.startswith(_PLAIN):  # perhaps in another encoding
            content = Packet(content).to_bytes()
        return None if content is None else without_wrapper(content)

    @property
    def changes(self) -> bool:
        """True if they differ from those in the file."""
        return self.after.content != self.before.xmp


def plan(
    content: bytes,
    kind: str,
    tags: Sequence[Tag],
    author: Author | None,
    tool: ExifTool,
    new: Callable[[], Packet] = Packet.new,
) -> EmbeddingPlan:
    """Plan our keywords in the XMP of an image, by the rules of sidecars.

    A tag that is a person's keyword in IPTC is a person's in XMP, too.

    Raises:
        ValueError: the image or its XMP cannot be read, or the new XMP is too large.
        ExifToolError: exiftool failed.
    """
    before = ImageParts.read(content, kind, tool)
    theirs: set[str] = set()
    if before.iptc:
        theirs = {fold_level(one) for one in before.iptc.keywords} - _marked(before.xmp)
        tags = [
            Tag(tag.name, tag.paths, tag.confirmed or fold_level(tag.name) in theirs)
            for tag in tags
        ]
    after = retag(before.xmp, tags, author, new, theirs)
    if len(after.content or b"") > _MAX_XMP:
        raise ValueError(f"its XMP would have more than {_MAX_XMP} bytes")
    return EmbeddingPlan(kind, before, after)


def apply(plan: EmbeddingPlan, content: bytes, tool: ExifTool) -> bytes:
    """Return an image file with planned keywords.

    IPTC gets them only where a photo has IPTC, as the Metadata Working Group (2010) advises.

    Raises:
        ValueError: its pixels cannot be read, so that a change would not be noticed.
        ExifToolError: exiftool failed, or changed more than XMP and IPTC.

    Cost: decodes the pixels twice, unless it is a JPEG.
    """
    pixels = pixels_of(content, plan.kind)
    packet = Packet.new() if plan.after.content is None else Packet(plan.after.content)
    there = {path[-1] for path in SUBJECT.paths(packet)}
    now = [path[-1] for path in SUBJECT.marked(packet) if path[-1] in there]
    with working_copy(content, plan.kind) as image:
        words = ["-XMP:all="]
        if plan.after.content is not None:
            xmp = image.with_name("packet.xmp")
            xmp.write_bytes(_WRAPPER % plan.new_xmp)
            words = [f"-XMP:XMP<={str(xmp).replace('%', '%%')}"]
        if plan.before.iptc:
            words += plan.before.iptc.changes(_marked(plan.before.xmp), now)
        printed = tool.run(*words, "-overwrite_original", str(image))
        written = image.read_bytes()
    if "1 image files updated" not in printed:
        raise ExifToolError(_reason(printed, tool))
    is_same = pixels_of(written, plan.kind) == pixels
    if not is_same or not _is_as_planned(written, content, plan, tool):
        raise ExifToolError("exiftool would change more than keywords")
    return written


def _is_as_planned(written: bytes, content: bytes, plan: EmbeddingPlan, tool: ExifTool) -> bool:
    """Return whether a file has the new XMP, and all but XMP and IPTC as before."""
    try:
        found = ImageParts.read(written, plan.kind, tool)
    except ValueError:
        return False
    bytes_but_xmp = len(written) - len(found.xmp or b"")
    if bytes_but_xmp < len(content) - len(plan.before.xmp or b"") - _MAX_LOSS:
        return False
    if not plan.theirs <= set(found.iptc.keywords if found.iptc else ()):
        return False
    xmp = None if found.xmp is None else without_wrapper(found.xmp)
    return (xmp, found.others) == (plan.new_xmp, plan.before.others)


def _marked(xmp: bytes | None) -> set[str]:
    """Return our keywords in a packet, folded."""
    return set() if xmp is None else marked_names(Packet(xmp))


def _reason(printed: str, tool: ExifTool) -> str:
    """Return why exiftool did not write, from what it printed."""
    lines = printed.splitlines()
    if any(line.startswith("Can't write") for line in lines):
        version = tool.run("-ver").strip()
        return f"exiftool {version} does not write to files of this kind, newer ones may; use --xmp"
    reason = next((line for line in lines if "rror" in line), " ".join(lines))
    return f"exiftool: {reason.partition(' - ')[0].strip()}"
