"""The card: findings, most important first, and what was looked at."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from textwrap import fill
from typing import Any

SEVERITIES = ("critical", "warning", "note")
PAGE = "docs/doctor.md"
_MARKS = {"critical": "✗", "warning": "!", "note": "·"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: its name, which stays the same from version to version.
        severity: "critical" (it cannot learn like this), "warning" (it costs accuracy) or "note".
        seen: what was seen, with its numbers.
        why: why that matters.
        do: what to do about it.
    """

    code: str
    severity: str
    seen: str
    why: str
    do: str

    @property
    def page(self) -> str:
        """Where the docs explain it."""
        return f"{PAGE}#{self.code}"

    def as_dict(self) -> dict[str, str]:
        """The finding as strings, ready for JSON."""
        return {**asdict(self), "page": self.page}

    def __str__(self) -> str:
        head = f"{_MARKS[self.severity]} {self.code} ({self.severity})"
        parts = [("seen", self.seen), ("why", self.why), ("do", self.do), ("more", self.page)]
        return "\n".join([head, *(_paragraph(word, text) for word, text in parts)])


@dataclass(frozen=True)
class Report:
    """What the doctor found; ``print(report)`` is its card.

    Attributes:
        findings: most important first.
        subject: what was examined, in words.
        vitals: the figures behind it, in words: loss, AUC, distances.
        looked_at: the codes that could be judged on what was seen.
        unseen: what could not be seen and would have to be for a clean bill of health, in words;
            empty where enough was.
    """

    findings: list[Finding]
    subject: str
    vitals: dict[str, str] = field(default_factory=dict)
    looked_at: list[str] = field(default_factory=list)
    unseen: str = ""

    @property
    def sick(self) -> bool:
        """Whether there is a finding worse than a note."""
        return any(finding.severity != "note" for finding in self.findings)

    @property
    def healthy(self) -> bool:
        """Whether enough was seen and there is nothing worse than a note."""
        return not self.sick and not self.unseen

    @property
    def summary(self) -> str:
        """The verdict in a few words: the codes that are no notes; else whether it is well."""
        codes = ", ".join(each.code for each in self.findings if each.severity != "note")
        return codes or ("too little seen to tell" if self.unseen else "healthy")

    def as_dict(self) -> dict[str, Any]:
        """Everything as lists and strings, ready for JSON."""
        return {
            "subject": self.subject,
            "healthy": self.healthy,
            "findings": [finding.as_dict() for finding in self.findings],
            "vitals": self.vitals,
            "looked_at": self.looked_at,
            "unseen": self.unseen,
        }

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> "Report":
        """Read what `as_dict` gave.

        Args:
            kept: the dictionary, as from JSON.

        Returns:
            The report.
        """
        words = ("code", "severity", "seen", "why", "do")
        findings = [Finding(**{word: each[word] for word in words}) for each in kept["findings"]]
        unseen = kept.get("unseen", "")
        return cls(findings, kept["subject"], kept["vitals"], kept["looked_at"], unseen)

    def __str__(self) -> str:
        lines = [f"siameselib doctor: {self.subject}", f"{_verdict(self)}"]
        lines += [f"  {name}: {text}" for name, text in self.vitals.items()]
        if self.unseen:
            lines.append(_paragraph("not seen", self.unseen))
        return "\n".join([*lines, *(f"\n{finding}" for finding in self.findings)])


def ranked(findings: Iterable[Finding | None]) -> list[Finding]:
    """Sort findings by severity; within one, the order given (causes before symptoms) stays."""
    found = [finding for finding in findings if finding is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _verdict(report: Report) -> str:
    if not report.findings:
        n = len(report.looked_at)
        checks = f"{n} check{'s' * (n != 1)}, nothing found"
        return f"Too little seen to tell: {checks}." if report.unseen else f"Healthy: {checks}."
    counts = [
        f"{n} {severity}" + ("s" if n > 1 and severity != "critical" else "")
        for severity in SEVERITIES
        if (n := sum(finding.severity == severity for finding in report.findings))
    ]
    return ("Healthy, with " if report.healthy else "") + ", ".join(counts) + "."


def _paragraph(word: str, text: str) -> str:
    return fill(
        text,
        96,
        initial_indent="  " + f"{word}: ".ljust(6),
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
