"""What a reader finds under an RMW_HOME, for comparing it before and after a fault, and with a twin that had none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow.proofs import fault_of_file

# Files that tell how long something took, or when it was done, and so differ between twins.
TIMED = frozenset({"metrics.jsonl", "validation.jsonl", "result.json", "README.md", "analysis.json", "report.html"})


@dataclass(frozen=True)
class Found:
    """What stands in a home.

    Attributes:
        artifacts: ``asset@version`` -> file -> sha256, of all that a reader can find.
        events: name of each event's file -> sha256.
        partial: what a reader can find that is not whole, in words.
    """

    artifacts: Mapping[str, Mapping[str, str]]
    events: Mapping[str, str]
    partial: tuple[str, ...]

    def lost_since(self, before: "Found") -> list[str]:
        """Return what stood there before and now does not, or not as it was."""
        kept = {**self.artifacts, **self.events}
        return [name for name, was in {**before.artifacts, **before.events}.items() if kept.get(name) != was]

    def results(self) -> dict[str, dict[str, str]]:
        """Return the hashes that must equal those of a twin."""
        return {
            name: {file: sha for file, sha in files.items() if Path(file).name not in TIMED}
            for name, files in self.artifacts.items()
        }


NOTHING = Found({}, {}, ())


def look(home: Path) -> Found:
    """Read everything that a reader could, and hash all of it."""
    store = ArtifactStore(home)
    artifacts: dict[str, Mapping[str, str]] = {}
    partial = []
    for folder in sorted(store.artifacts.glob("*/*")):
        try:
            artifact = store.find(folder.parent.name, folder.name)
        except UserError as error:
            partial.append(str(error))
            continue
        if artifact is None:
            partial.append(f"{folder} has no manifest")
            continue
        files = artifact.manifest["files"]
        wrong = [fault for name, entry in files.items() if (fault := fault_of_file(folder / name, entry))]
        unnamed = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {*files}
        partial += [f"{artifact.id}: {fault}" for fault in wrong]
        partial += [f"{artifact.id}: {name} is in no manifest" for name in unnamed - {"manifest.json"}]
        artifacts[artifact.id] = {name: entry["sha256"] for name, entry in files.items()}
    try:
        names = {event["sequence"] for event in store.events()}
    except UserError as error:
        partial.append(str(error))
        names = set()
    events = {path.name: file_sha256(path) for path in sorted(store.events_folder.glob("*.json"))}
    if len(names) != len(events):
        partial.append(f"{len(events)} event files hold {len(names)} sequence numbers")
    return Found(artifacts, events, tuple(partial))
