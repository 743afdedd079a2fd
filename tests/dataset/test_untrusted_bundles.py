"""Bundles that anybody may have written: mutated in every way of `benchmarks/bench_mutated_bundles.py`, and made up by chance."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated import bench

from wattcount.dataset.bundle import BundleError, Manifest, Submitter, opened_bundle, write_bundle


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bench.source(tmp_path_factory.mktemp("source"))


def refused(bundle: bytes) -> str | None:
    """What the reader says of a bundle; None where it takes it. Whatever it does, it does in its folder."""
    with tempfile.TemporaryDirectory(prefix="untrusted-") as temporary:
        file, folder = Path(temporary, "x.wattcount"), Path(temporary, "folder")
        file.write_bytes(bundle)
        try:
            found = opened_bundle(file, folder)
        except BundleError as error:
            assert sorted(path.name for path in Path(temporary).iterdir()) == ["x.wattcount"]
            said = str(error)
        else:
            assert sorted(path.name for path in Path(temporary).iterdir()) == ["folder", "x.wattcount"]
            assert all(path.is_dir() for path in found.record_paths)
            return None
        assert said.isprintable()
        return said


def test_the_bundle_itself_is_taken(source: Any) -> None:
    assert refused(source.bundle) is None
    assert refused(bench.packed(bench.refreshed(source.members))) is None, (
        "mutants would be refused for their form alone"
    )


HARMLESS_TO_THE_READER = {
    "a huge number", "NaN and infinities", "deep JSON, or none", "markup and escapes in texts", "a key that is markup", "a wrong type",
    "an edited figure of metrics.json, hashes refreshed", "an edited number of run.json, hashes refreshed", "two files swapped",
    "an edited table, hashes refreshed", "bits of a table, hashes refreshed", "a pickle in place of a file", "a file or field too many",
    "another schema or metrics version", "dates and clocks", "evidence, GPU or model relabelled, hashes refreshed", "a bomb",
    "who, what and which point it claims to be", "a header of the archive made up", "a file renamed, left out or moved", "a name twice",
    "bits of the archive, compressed anew",
}  # fmt: skip
"""Kinds of which the reader may take some: what a file holds is for the rules to judge, and some mutations change nothing."""


@pytest.mark.parametrize("kind", [kind for kind in bench.KINDS if kind != "a bomb"])
def test_a_mutant_is_refused_in_one_line_or_opened_in_its_folder(source: Any, kind: str) -> None:
    for seed in range(6):
        said = refused(bench.KINDS[kind](source, random.Random(seed)))
        assert said is not None or kind in HARMLESS_TO_THE_READER, seed


@pytest.mark.parametrize("how", [0, 1, 5])
def test_a_bomb_is_refused_before_it_takes_memory(
    source: Any, how: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    monkeypatch.setattr(rng, "randrange", lambda *_: how)
    assert refused(bench.KINDS["a bomb"](source, rng)) is not None


@given(st.binary(max_size=3000))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes(content: bytes) -> None:
    assert refused(content) is not None
    assert refused(bench.compressed(content)) is not None
    assert refused(bench.compressed(bench.tar([bench.Member("manifest.json", content)]))) is not None


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
MANIFEST_KEYS = [item.name for item in dataclasses.fields(Manifest)]


@given(st.dictionaries(st.sampled_from(MANIFEST_KEYS), ANY_JSON) | ANY_JSON)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_manifest(data: Any) -> None:
    with pytest.raises(BundleError) as error:
        Manifest.of_json(data)
    assert str(error.value).isprintable()


@given(st.data())
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_manifest_with_one_value_of_another_kind(source: Any, data: st.DataObject) -> None:
    manifest = bench.manifest_of(source.members)
    node = data.draw(
        st.sampled_from([manifest, manifest["records"][0], next(iter(manifest["files"].values()))])
    )
    node[data.draw(st.sampled_from(list(node)) | st.text(max_size=10))] = data.draw(ANY_JSON)
    try:
        found = Manifest.of_json(manifest)
    except BundleError as error:
        said = str(error)
    else:
        said = ""
        assert Manifest.of_json(found.to_json()) == found
    assert said.isprintable()


@given(st.text(min_size=1, max_size=60).filter(lambda name: "\0" not in name))
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_name_of_a_file(source: Any, name: str) -> None:
    members = [*source.members, bench.Member(name.encode("utf-8", "replace").decode(), b"x")]
    try:
        refreshed = bench.refreshed(members)
    except UnicodeError:
        return
    assert refused(bench.packed(refreshed)) is not None


@pytest.fixture(scope="module")
def truth(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("truth")
    (folder / "x.wattcount").write_bytes(source.bundle)
    return bench.figures(opened_bundle(folder / "x.wattcount", folder / "opened").record_paths)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("wattcount.dataset.validate.Confined", bench.Kept)
    yield
    bench.Kept.end()


@pytest.mark.usefixtures("kept")
@pytest.mark.timeout(280)
def test_no_mutant_is_accepted_with_another_figure(source: Any, truth: Any, tmp_path: Path) -> None:
    original = bench.trial(source.bundle, truth, tmp_path)
    assert original.decision != "rejected", original
    assert not original.bad, original
    for kind, seed, bundle in bench.mutants(source, len(bench.KINDS), 7, list(bench.KINDS)):
        found = bench.trial(bundle, truth, tmp_path)
        assert (found.wrong, found.crash, found.outside) == ((), None, ()), (kind, seed, found)
    assert 0 < bench.Kept.peak_bytes < bench.MEMORY_LIMIT_BYTES


@pytest.mark.usefixtures("kept")
def test_a_figure_that_differs_is_seen(source: Any, truth: Any, tmp_path: Path) -> None:
    run = next(iter(truth))
    found = bench.trial(source.bundle, {**truth, run: {**truth[run], "energy/gpu_j": 1.0}}, tmp_path)
    assert found.wrong == (f"{run}: energy/gpu_j",)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    paths = bench.smallest_records()
    submitter = Submitter("ann", "ann@example.org", "CC-BY-4.0", b"k" * 32)
    write_bundle(paths, tmp_path / "a", submitter)
    write_bundle(paths[::-1], tmp_path / "b", submitter)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
