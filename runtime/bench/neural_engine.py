"""What of a bundle of Core ML packages keeps Apple's Neural Engine from running it, read off its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ...core.bundle import Bundle
from ...core.errors import ConfigError
from ...targets.coreml.names import package_of
from ..engines.mil.lint import Finding, Load, lint, load_of
from ..engines.mil.package import Package


@dataclass(frozen=True)
class Looked:
    """A method: all that the rules find, and what it computes and holds at once."""

    program: str
    method: str
    findings: tuple[Finding, ...]
    load: Load

    @property
    def counts(self) -> dict[str, int]:
        """Findings by rule, the most first."""
        return dict(Counter(finding.rule for finding in self.findings).most_common())

    def first(self, rule: str) -> Finding:
        return next(finding for finding in self.findings if finding.rule == rule)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def neural_engine(bundle: Bundle, progress: Callable[[str, int, int], None] = lambda *_: None) -> list[Looked]:
    """Every method of every program. Nothing is run.

    Raises:
        ConfigError: the bundle is for another target.
        EngineError, BundleError: as `lint`.
    """
    target = bundle.manifest.target.name
    if target != "coreml":
        raise ConfigError(f"The bundle was compiled for {target}; --lint looks through Core ML packages, of the target coreml.")
    calls = [(name, program, method) for name, program in bundle.manifest.programs.items() for method in program.methods]
    found = []
    for number, (name, program, method) in enumerate(calls):
        called = program.prefix + method
        package = Package.open(package_of(bundle.path(program.path), called))
        function = called if called in package.functions else None
        found.append(Looked(name, method, tuple(lint(package, function)), load_of(package, function)))
        progress("packages", number + 1, len(calls))
    return found
