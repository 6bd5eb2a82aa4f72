"""Every error Headwater raises on purpose, as one tree.

HeadwaterError
├── SettingsError         a setting is missing or wrong; the sentence says how to mend it
├── DataError             a data file, event log or command-line input is unusable
├── BrokerUnavailable     no broker answers, or none can be started here
├── StateError            a stored record cannot be read
│   └── UnknownSchema     written by another (newer) version of Headwater
├── ArtefactError         a model artefact must not be served; the champion stays
│   ├── ManifestInvalid   manifest.json is missing, malformed or names something impossible
│   ├── DigestMismatch    a file is not the one that was exported
│   ├── TensorMismatch    a session's inputs or outputs are not those of the contract
│   └── ParityMismatch    a session computes something else than the trainer did
├── DeviceUnavailable     CUDA was asked for and cannot be used
└── DeliveryError         a batch could not be brought to its end
    ├── LostOwnership     the partition moved to another worker; the batch will be replayed there
    ├── ForeignWrite      another writer is ahead of us in our changelog: we are the zombie
    └── RecordTooLarge    one record exceeds what the broker takes

A bad *event* is no exception but a value (`core.events.Rejected`): it goes to the dead letters.
"""

from __future__ import annotations


class HeadwaterError(Exception):
    """Base class. `str()` of every subclass is a sentence fit for a user."""


class SettingsError(HeadwaterError):
    """A setting is missing or wrong."""


class DataError(HeadwaterError):
    """A data file, event log or command-line input is unusable."""


class BrokerUnavailable(HeadwaterError):
    """No broker answers, or none can be started here."""


class StateError(HeadwaterError):
    """A stored record cannot be read."""


class UnknownSchema(StateError):
    """A stored record carries a schema version that this release does not know."""

    def __init__(self, kind: str, found: int, known: int) -> None:
        self.kind, self.found, self.known = kind, found, known
        super().__init__(
            f"{kind} record has schema version {found}, this release reads {known}: "
            "run the release that wrote it, or rebuild the table from the events"
        )


class ArtefactError(HeadwaterError):
    """A model artefact must not be served."""


class ManifestInvalid(ArtefactError):
    """manifest.json is missing, malformed or names something impossible."""


class DigestMismatch(ArtefactError):
    """A file is not the one that was exported."""

    def __init__(self, file: str, expected: str, found: str) -> None:
        self.file, self.expected, self.found = file, expected, found
        super().__init__(f"{file}: sha256 is {found}, the manifest says {expected}")


class TensorMismatch(ArtefactError):
    """A session's inputs or outputs are not those of the contract."""


class ParityMismatch(ArtefactError):
    """A session computes something else than the trainer did."""


class DeviceUnavailable(HeadwaterError):
    """CUDA was asked for and cannot be used."""


class DeliveryError(HeadwaterError):
    """A batch could not be brought to its end."""


class LostOwnership(DeliveryError):
    """The partition belongs to another worker or generation; the batch will be replayed there."""


class ForeignWrite(DeliveryError):
    """Another writer is ahead of us in our own changelog."""


class RecordTooLarge(DeliveryError):
    """One record exceeds what the broker takes."""
