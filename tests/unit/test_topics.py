from __future__ import annotations

from dataclasses import replace

from streamer.core.signals.snapshot import PART_BYTES
from streamer.settings import Settings
from streamer.transport import topics
from streamer.transport.topics import TopicState, topic_specs

SETTINGS = replace(Settings(), topic_prefix="shop.", group="g", partitions=6, replication_factor=3)


def as_wanted(settings: Settings = SETTINGS) -> dict[str, TopicState]:
    return {
        spec.role: TopicState(spec, spec.partitions, spec.replication_factor, spec.config)
        for spec in topic_specs(settings)
    }


def test_every_topic_of_the_protocol_is_there_with_its_prefix() -> None:
    names = {spec.name for spec in topic_specs(SETTINGS)}
    assert names == {"shop." + name for name in topics.NAMES} | {"shop.g-users-changelog"}


def test_what_an_event_causes_can_go_to_the_event_s_partition() -> None:
    partitions = {spec.role: spec.partitions for spec in topic_specs(SETTINGS)}
    assert {partitions[role] for role in topics.COPARTITIONED} == {6}


def test_the_changelog_keeps_what_is_younger_than_an_hour() -> None:
    (changelog,) = [spec for spec in topic_specs(SETTINGS) if spec.name == topics.changelog_topic(SETTINGS)]
    assert changelog.config["cleanup.policy"] == "compact"
    assert int(changelog.config["min.compaction.lag.ms"]) >= 60 * 60 * 1000


def test_snapshots_of_the_counts_lie_in_one_partition_whose_old_parts_go_soon() -> None:
    (counts,) = [spec for spec in topic_specs(SETTINGS) if spec.role == "signal-counts"]
    assert counts.partitions == 1
    assert counts.config["cleanup.policy"] == "compact"
    assert int(counts.config["max.message.bytes"]) > PART_BYTES
    assert int(counts.config["segment.bytes"]) <= 64 * PART_BYTES


def test_a_dead_letter_may_be_larger_than_an_event() -> None:
    limit = {spec.role: int(spec.config.get("max.message.bytes", 0)) for spec in topic_specs(SETTINGS)}
    assert limit["dead-letters"] >= 2 * limit["events"] > 0


def test_topics_as_wanted_have_no_mistakes_and_missing_ones_are_none() -> None:
    states = as_wanted()
    states["events"] = replace(states["events"], partitions=0)
    assert topics.mistakes(SETTINGS, states.values()) == []


def test_other_partitions_than_the_setting_are_mended_by_the_setting() -> None:
    (sentence,) = topics.mistakes(replace(SETTINGS, partitions=8), as_wanted().values())
    assert "HEADWATER_PARTITIONS is 8" in sentence
    assert "set HEADWATER_PARTITIONS=6" in sentence


def test_partitions_that_disagree_cannot_be_mended_by_the_setting() -> None:
    states = as_wanted()
    states["profiles"] = replace(states["profiles"], partitions=4)
    (sentence,) = topics.mistakes(SETTINGS, states.values())
    assert "shop.events 6, shop.profiles 4" in sentence
    assert "HEADWATER_TOPIC_PREFIX" in sentence


def test_a_changelog_that_is_compacted_at_once_is_a_mistake() -> None:
    states = as_wanted()
    config = dict(states["changelog"].config) | {"min.compaction.lag.ms": "0"}
    states["changelog"] = replace(states["changelog"], config=config)
    (sentence,) = topics.mistakes(SETTINGS, states.values())
    assert "min.compaction.lag.ms=0 where 3600000 is needed" in sentence


def test_larger_limits_than_wanted_are_fine() -> None:
    states = as_wanted()
    config = dict(states["dead-letters"].config) | {"max.message.bytes": "99999999"}
    states["dead-letters"] = replace(states["dead-letters"], config=config)
    assert topics.mistakes(SETTINGS, states.values()) == []
