"""The keywords of an image in IPTC, as exiftool reads and changes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlcrf.keywords.keyword_lists import fold_level

WANTED = ("-IPTC:all", "-IPTCDigest", "-CurrentIPTCDigest")
CHANGING = frozenset(
    f"IPTC:{name}" for name in ("Keywords", "EnvelopeRecordVersion", "ApplicationRecordVersion")
) | {"Photoshop:IPTCDigest", "File:CurrentIPTCDigest"}
_MAX_KEYWORD = 64


@dataclass(frozen=True)
class Iptc:
    """The keywords of an image in IPTC, and what decides how they can be changed.

    Attributes:
        has_digest: True if the last program that made XMP equal to IPTC noted so, and it is still
            true.
    """

    keywords: tuple[str, ...]
    is_utf8: bool
    has_digest: bool

    @classmethod
    def of(cls, tags: Mapping[str, object]) -> "Iptc | None":
        """Return IPTC from the tags that exiftool prints; None if an image has no IPTC."""
        if not any(name.startswith("IPTC:") for name in tags):
            return None
        found = tags.get("IPTC:Keywords", [])
        noted = tags.get("Photoshop:IPTCDigest")
        return cls(
            tuple(map(str, found if isinstance(found, list) else [found])),
            tags.get("IPTC:CodedCharacterSet") == "UTF8",
            noted is not None and noted == tags.get("File:CurrentIPTCDigest"),
        )

    def changes(self, was: set[str], now: Sequence[str]) -> list[str]:
        """Return exiftool's words that remove keywords that were ours, and add those of now.

        IPTC holds 64 bytes a keyword, in an encoding that is known for ASCII or if declared.
        """
        fits = [
            one
            for one in now
            if len(one.encode()) <= _MAX_KEYWORD
            and one.isprintable()
            and (one.isascii() or self.is_utf8)
        ]
        ours = [one for one in self.keywords if fold_level(one) in was and one.isprintable()]
        kept = [one for one in self.keywords if one not in ours or one in fits]
        words = [f"-IPTC:Keywords-={one}" for one in self.keywords if one not in kept]
        folded = {fold_level(one) for one in kept}
        words += [f"-IPTC:Keywords+={one}" for one in fits if fold_level(one) not in folded]
        return [*words, "-IPTCDigest=new"] if words and self.has_digest else words
