"""Listing, checking and removing images."""

from __future__ import annotations

import pytest

from featurechaos.errors import DecodeError, RequestError
from featurechaos_s3.manifest import current_key, home, manifest_key
from tests.s3.conftest import DAY_US, JUNE_US, World, planes, publish

pytestmark = pytest.mark.live


def test_images_are_listed_oldest_first(each_world: World) -> None:
    store = each_world.store()
    for day in (2, 0, 1):
        publish(store, planes(3, day, time_us=JUNE_US + day * DAY_US))

    assert [one.as_of_us for one in store.snapshots("plane")] == [JUNE_US + day * DAY_US for day in range(3)]


def test_a_publish_still_on_its_way_is_no_image(world: World) -> None:
    store = world.store()
    manifest = publish(store, planes(3, 1))
    world.bucket.remove(manifest_key("plane", manifest.snapshot))

    assert store.snapshots("plane") == []


def test_a_whole_image_verifies(each_world: World) -> None:
    store = each_world.store()
    old = publish(store, planes(3, 1))
    new = publish(store, planes(4, 1, time_us=JUNE_US + 1))

    now, before = store.verify("plane"), store.verify("plane", old.snapshot)

    assert (now.snapshot, now.rows, now.is_whole) == (new.snapshot, 4, True)
    assert (before.snapshot, before.problems) == (old.snapshot, ())


@pytest.mark.parametrize(
    ("damage", "says"), [("gone", "is gone"), ("flipped", "written again"), ("cut", "written again")]
)
def test_a_damaged_part_is_named(damage: str, says: str, each_world: World) -> None:
    store = each_world.store()
    manifest = publish(store, planes(3, 1))
    key = manifest.part_key(manifest.parts[0])
    content, _ = each_world.bucket.get(key, most_bytes=1 << 20)
    if damage == "gone":
        each_world.bucket.remove(key)
    else:
        new = content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
        each_world.bucket.put(key, new)

    checked = store.verify("plane")

    assert not checked.is_whole
    assert says in checked.problems[0]
    assert "part-00000.parquet" in checked.problems[0]


def test_a_damaged_manifest_is_an_error_that_names_it(world: World) -> None:
    store = world.store()
    manifest = publish(store, planes(3, 1))
    world.bucket.put(manifest.key, manifest.to_json().replace(b'"rows": 3', b'"rows": 4'))

    with pytest.raises(DecodeError, match=r"manifest\.json wants SHA-256"):
        store.verify("plane")


def test_what_is_not_there_is_said_by_name(world: World) -> None:
    store = world.store()

    with pytest.raises(RequestError, match="view 'plane' has no current image"):
        store.verify("plane")
    with pytest.raises(RequestError, match="has no image 20240601T000000"):
        store.verify("plane", "20240601T000000.000000Z-00000000")
    with pytest.raises(RequestError, match="source 'standby' has no view 'train', it has plane"):
        store.snapshots("train")


def test_the_entities_of_the_current_image_are_given_as_far_as_is_asked(each_world: World) -> None:
    store = each_world.store()
    publish(store, planes(9, 1))
    publish(store, planes(5, 1, time_us=JUNE_US + 1, begin=10))

    assert store.entities("plane", 100).to_pydict() == {"tailnum": ["N10", "N11", "N12", "N13", "N14"]}
    assert store.entities("plane", 2).num_rows == 2


def test_entities_of_no_image_or_of_a_damaged_one_are_an_error(world: World) -> None:
    store = world.store()
    with pytest.raises(RequestError, match="view 'plane' has no current image"):
        store.entities("plane", 10)
    manifest = publish(store, planes(3, 1))
    world.bucket.remove(manifest.part_key(manifest.parts[0]))

    with pytest.raises(DecodeError, match=f"image {manifest.snapshot} of view 'plane'.*cannot be read"):
        store.entities("plane", 10)


def test_gc_keeps_the_newest_and_the_current(each_world: World) -> None:
    store = each_world.store()
    made = [publish(store, planes(3, day, time_us=JUNE_US + day * DAY_US)).snapshot for day in range(5)]

    assert store.gc("plane", keep=2) == made[:3]
    assert [one.snapshot for one in store.snapshots("plane")] == made[3:]
    assert store.gc("plane", keep=0) == made[3:4]
    assert [one.key for one in each_world.bucket.things(f"{home('plane')}v={made[0]}/")] == []
    assert store.verify("plane").is_whole


def test_gc_spares_what_current_names_though_it_be_old(world: World) -> None:
    store = world.store()
    made = [publish(store, planes(3, day, time_us=JUNE_US + day * DAY_US)) for day in range(3)]
    first, _ = world.bucket.get(current_key("plane"), most_bytes=10_000)
    rolled = first.replace(made[2].snapshot.encode(), made[0].snapshot.encode())
    world.bucket.put(current_key("plane"), rolled)

    assert store.gc("plane", keep=1) == [made[1].snapshot]


def test_gc_leaves_a_publish_on_its_way_alone(world: World) -> None:
    store = world.store()
    publish(store, planes(3, 1))
    unfinished = f"{home('plane')}v=20200101T000000.000000Z-00000000/part-00000.parquet"
    world.bucket.put(unfinished, b"...")

    assert store.gc("plane", keep=1) == []
    assert unfinished in [one.key for one in world.bucket.things(home("plane"))]
