"""What every production registry does."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.data.spooled_files import SpooledFiles
from many_models.errors import ConflictError, InputError, IntegrityError
from many_models.keys import files_sha256
from many_models.ports import (
    Approval,
    PackUpload,
    ProductionRegistry,
    PromotedSeries,
    Release,
    ReleaseDraft,
)
from many_models_tests.contracts.registry import KINDS, NOW, SOME, RegistryContract, served, spoil, upload


def draft(base: Release | None, packs, promoted=None, removed=(), actor="me", reason="because") -> ReleaseDraft:
    """A draft in which every series of `packs` is promoted, unless `promoted` names fewer; staging says the value."""
    values = {n: v for p in packs for n, v in zip(p.series, json.loads(p.files["rows.json"]), strict=True)}
    names = list(values) if promoted is None else promoted
    rows = [
        PromotedSeries(n, f"staging/{values[n]}", "r", "2017-01-01", "zeros" if values[n] == "0" else "") for n in names
    ]
    return ReleaseDraft(base.release_id if base else "", actor, reason, packs, rows, removed)


class ProductionContract(RegistryContract):
    """Its registries read the time as NOW."""

    def test_it_is_a_production_registry_that_says_what_it_reaches(self, make):
        assert isinstance(make(), ProductionRegistry)
        assert len(make().check().splitlines()) == 1

    def test_nothing_is_live_before_the_first_release(self, make):
        production = make()
        assert (production.live(), production.live_id()) == (None, "")
        assert list(make().releases()) == []

    def test_a_release_is_what_was_published(self, make, again):
        production = make()
        packs = [upload("a", {"s2": "v2", "s1": "0"}), upload("b", {"s3": "v3"})]
        release = production.publish(draft(None, packs))
        assert (release.actor, release.reason, release.previous, release.created_at) == ("me", "because", "", NOW)
        assert list(release.champions) == ["s1", "s2", "s3"]
        one = release.champions["s1"]
        assert (one.row, one.staging, one.recipe, one.cutoff, one.previous, one.fallback) == (
            1,
            "staging/0",
            "r",
            "2017-01-01",
            "",
            "zeros",
        )
        for reader in (production, again(production)):
            assert reader.live() == release
            assert reader.live_id() == release.release_id
            assert list(reader.releases()) == [release]
            assert served(reader, release) == {"s1": "0", "s2": "v2", "s3": "v3"}
            assert reader.files(one.ref, one.sha256) == packs[0].files

    def test_packs_that_wait_on_disk_are_stored_as_those_in_memory(self, make, again, tmp_path):
        packs = [upload("a", {"s1": "v1"}), upload("b", {"s2": "v2"})]
        waiting = [replace(one, files=SpooledFiles(tmp_path / one.pack, one.files)) for one in packs]
        production = make()
        release = production.publish(draft(None, waiting))
        reader = again(production)
        assert served(reader, release) == {"s1": "v1", "s2": "v2"}
        for one, champion in zip(packs, release.champions.values(), strict=True):
            assert champion.sha256 == files_sha256(one.files)
            assert reader.files(champion.ref, champion.sha256) == one.files

    def test_a_kept_champion_moves_into_the_new_pack_unchanged(self, make):
        production = make()
        first = production.publish(draft(None, [upload("a", {"s1": "1", "s2": "2"}), upload("b", {"s3": "3"})]))
        second = production.publish(draft(first, [upload("a", {"s2": "2", "s1": "10"})], promoted=["s1"]))
        assert production.live() == second
        assert second.previous == first.release_id
        assert second.champions["s3"] == first.champions["s3"]
        kept, new = second.champions["s2"], second.champions["s1"]
        assert (kept.staging, kept.previous, kept.row) == ("staging/2", "", 0)
        assert (new.staging, new.previous, new.row) == ("staging/10", "staging/1", 1)
        assert kept.ref == new.ref != first.champions["s1"].ref
        assert served(production, second) == {"s1": "10", "s2": "2", "s3": "3"}
        assert served(production, first) == {"s1": "1", "s2": "2", "s3": "3"}
        third = production.publish(draft(second, [upload("a", {"s2": "2", "s1": "10"})], promoted=["s1"]))
        assert third.champions["s1"].previous == "staging/1"

    def test_a_series_that_leaves_is_not_served(self, make):
        production = make()
        first = production.publish(draft(None, [upload("a", {"s1": "1", "s2": "2"})]))
        second = production.publish(draft(first, [], removed=["s1", "never there"]))
        assert served(production, second) == {"s2": "2"}
        third = production.publish(draft(second, [], removed=["s2"]))
        assert served(production, third) == {}
        assert production.live() == third

    def test_a_draft_for_another_release_changes_nothing(self, make):
        production = make()
        packs = [upload("a", {"s1": "1"})]
        with pytest.raises(ConflictError, match="none"):
            production.publish(ReleaseDraft("gone", "me", "", packs, []))
        first = production.publish(draft(None, packs))
        second = production.publish(draft(first, [upload("a", {"s1": "2"})]))
        for base in (None, first):
            with pytest.raises(ConflictError, match=second.release_id):
                production.publish(draft(base, [upload("a", {"s1": "3"})]))
        assert production.live() == second
        assert list(production.releases()) == [second, first]

    @pytest.mark.parametrize(
        ("packs", "promoted", "removed", "match"),
        [
            ([upload("a", {"s9": "1"})], [], (), "s9"),
            ([upload("a", {"s1": "1"})], ["s1", "s1"], (), "twice"),
            ([upload("a", {"s1": "1"}), upload("b", {"s1": "1"})], ["s1"], (), "'s1'"),
            ([upload("a", {"s1": "1"})], ["s1"], ("s1",), "removed"),
            ([PackUpload("p", {"../a": b""}, ("s1",))], [], (), "'p'"),
        ],
        ids=["neither promoted nor live", "promoted twice", "in two packs", "removed too", "a bad pack"],
    )
    def test_a_draft_that_contradicts_itself_changes_nothing(self, make, packs, promoted, removed, match):
        production = make()
        first = production.publish(draft(None, [upload("z", {"s1": "1"})]))
        rows = [PromotedSeries(name, "staging/1", "r", "c") for name in promoted]
        with pytest.raises(InputError, match=match):
            production.publish(ReleaseDraft(first.release_id, "me", "", packs, rows, removed))
        assert production.live() == first
        assert production.live_id() == first.release_id

    def test_a_promoted_series_must_be_in_a_pack(self, make):
        with pytest.raises(InputError, match="s9"):
            make().publish(
                ReleaseDraft(
                    "", "me", "", [upload("a", {"s1": "1"})], [PromotedSeries(n, "v", "r", "c") for n in ("s1", "s9")]
                )
            )

    def test_a_rollback_restores_a_release_whole(self, make, again):
        production = make()
        releases = []
        for value in "123":
            releases.append(production.publish(draft(releases[-1] if releases else None, [upload("a", {"s1": value})])))
        assert production.activate(releases[0].release_id) == releases[0]
        assert again(production).live() == releases[0]
        assert served(production, production.live()) == {"s1": "1"}
        assert list(production.releases()) == releases[::-1]
        fourth = production.publish(draft(releases[0], [upload("a", {"s1": "4"})]))
        assert fourth.previous == releases[0].release_id
        assert fourth.champions["s1"].previous == "staging/1"
        assert list(production.releases()) == [fourth, *releases[::-1]]
        production.activate(releases[2].release_id)
        production.activate(releases[2].release_id)
        assert production.live() == releases[2]

    def test_a_rollback_to_what_is_not_kept_says_what_is(self, make):
        production = make()
        with pytest.raises(InputError, match="none"):
            production.activate("nope")
        release = production.publish(draft(None, [upload("a", {"s1": "1"})]))
        for name in ("nope", "", "x' OR 'x' = 'x"):
            with pytest.raises(InputError, match=release.release_id):
                production.activate(name)
        assert production.live() == release

    @pytest.mark.parametrize("kind", KINDS)
    def test_damaged_packs_are_refused_and_the_others_serve_on(self, make, stored, kind, tmp_path):
        production = make()
        release = production.publish(draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "2"})]))
        good, bad = release.champions["s1"], release.champions["s2"]
        spoil(stored(production, bad.ref), kind, str(tmp_path / "mark"))
        with pytest.raises(IntegrityError, match=bad.ref):
            production.files(bad.ref, bad.sha256)
        assert production.files(good.ref, good.sha256)["rows.json"] == b'["1"]'
        assert production.live() == release
        assert not (tmp_path / "mark").exists()

    def test_swapped_packs_are_refused(self, make):
        production = make()
        release = production.publish(draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "2"})]))
        one, two = release.champions.values()
        with pytest.raises(IntegrityError, match=one.ref):
            production.files(one.ref, two.sha256)
        with pytest.raises(InputError, match="nope/1"):
            production.files("nope/1", one.sha256)

    def test_of_two_publications_at_once_one_loses_cleanly(self, make):
        production = make()
        first = production.publish(draft(None, [upload("a", {"s1": "0", "s2": "0"})]))
        results: dict[str, Release | Exception] = {}

        def publish(value: str) -> None:
            try:
                results[value] = production.publish(draft(first, [upload("a", {"s1": value, "s2": value})]))
            except ConflictError as error:
                results[value] = error

        threads = [threading.Thread(target=publish, args=(value,)) for value in "123"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (won,) = [value for value, result in results.items() if isinstance(result, Release)]
        assert len(results) == 3
        assert production.live() == results[won]
        assert served(production, production.live()) == {"s1": won, "s2": won}

    def test_pruning_keeps_the_live_release_and_the_last_ones(self, make, again):
        production = make()
        releases = []
        for value in "123456":
            packs = [upload("a", {"s1": value})] + ([upload("b", {"s2": value})] if value == "1" else [])
            releases.append(production.publish(draft(releases[-1] if releases else None, packs)))
        production.activate(releases[1].release_id)
        gone = again(production).prune(2)
        assert set(gone) == {r.release_id for r in (releases[0], *releases[2:4])} | {
            releases[i].champions["s1"].ref for i in (0, 2, 3)
        }
        assert production.live() == releases[1]
        assert list(production.releases()) == [releases[5], releases[4], releases[1]]
        for release in production.releases():
            assert served(production, release)["s2"] == "1"
        assert production.prune(2) == []
        assert set(production.prune(0)) >= {releases[5].release_id, releases[4].release_id}
        assert served(production, production.live()) == {"s1": "2", "s2": "1"}
        with pytest.raises(InputError, match=releases[1].release_id):
            production.activate(releases[5].release_id)

    def test_a_proposal_changes_nothing_until_it_is_approved(self, make, again):
        production = make()
        assert production.waiting() is None
        first = production.publish(draft(None, [upload("a", {"s1": "1", "s2": "1"}), upload("b", {"s3": "1"})]))
        assert production.waiting() is None
        proposal = production.propose(draft(first, [upload("a", {"s1": "2", "s2": "1"})], promoted=["s1"]))
        for reader in (production, again(production)):
            assert reader.live() == first
            assert served(reader, reader.live()) == {"s1": "1", "s2": "1", "s3": "1"}
            assert reader.waiting() == proposal
            assert served(reader, reader.waiting()) == {"s1": "2", "s2": "1", "s3": "1"}
            assert list(reader.releases()) == [first]
        with pytest.raises(InputError):
            production.activate(proposal.release_id)
        approved = again(production).approve(proposal.release_id, "Ü. Auditor", "looks 'good'\n\"really\"")
        assert approved.approval == Approval("Ü. Auditor", "looks 'good'\n\"really\"", NOW)
        assert replace(approved, approval=None) == proposal
        for reader in (production, again(production)):
            assert reader.live() == approved
            assert reader.waiting() is None
            assert list(reader.releases()) == [approved, first]
            assert served(reader, reader.live()) == {"s1": "2", "s2": "1", "s3": "1"}
        assert production.approve(proposal.release_id, "somebody else", "again") == approved
        assert production.activate(first.release_id) == first
        assert production.waiting() is None
        assert production.activate(proposal.release_id) == approved

    def test_the_first_release_can_wait_too(self, make):
        production = make()
        proposal = production.propose(draft(None, [upload("a", {"s1": "1"})]))
        assert production.live() is None
        assert production.waiting() == proposal
        assert production.approve(proposal.release_id, "me", "").champions == proposal.champions
        assert served(production, production.live()) == {"s1": "1"}

    def test_a_newer_proposal_supersedes_and_the_older_one_cannot_be_approved(self, make):
        production = make()
        older = production.propose(draft(None, [upload("a", {"s1": "1"})]))
        newer = production.propose(draft(None, [upload("a", {"s1": "2"})]))
        assert production.waiting() == newer
        for call in (production.approve, production.reject):
            with pytest.raises(ConflictError, match=newer.release_id):
                call(older.release_id, "me", "")
            with pytest.raises(ConflictError, match="'nope'"):
                call("nope", "me", "")
        production.reject(newer.release_id, "me", "too bold")
        assert production.waiting() is None
        for proposal in (older, newer):
            with pytest.raises(ConflictError, match="none does"):
                production.approve(proposal.release_id, "me", "")
        assert production.live() is None

    def test_a_proposal_for_a_release_that_is_live_no_more_does_not_wait(self, make):
        production = make()
        first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
        proposal = production.propose(draft(first, [upload("a", {"s1": "2"})]))
        second = production.publish(draft(first, [upload("a", {"s1": "3"})]))
        assert production.waiting() is None
        with pytest.raises(ConflictError, match=proposal.release_id):
            production.approve(proposal.release_id, "me", "")
        with pytest.raises(ConflictError, match=second.release_id):
            production.propose(draft(first, [upload("a", {"s1": "4"})]))
        assert production.live() == second

    def test_an_approval_without_a_name_or_too_long_to_keep_is_refused(self, make):
        production = make()
        proposal = production.propose(draft(None, [upload("a", {"s1": "1"})]))
        for actor, reason in ((" ", ""), ("x" * 251, ""), ("me", "x" * 5001)):
            for call in (production.approve, production.reject):
                with pytest.raises(InputError):
                    call(proposal.release_id, actor, reason)
        assert production.waiting() == proposal

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_proposal_whose_packs_were_damaged_since_does_not_go_live(self, make, stored, kind, tmp_path):
        production = make()
        first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
        proposal = production.propose(draft(first, [upload("b", {"s2": "2"})]))
        bad = proposal.champions["s2"].ref
        spoil(stored(production, bad), kind, str(tmp_path / "mark"))
        with pytest.raises(IntegrityError, match=bad):
            production.approve(proposal.release_id, "me", "")
        assert production.live() == first
        assert not (tmp_path / "mark").exists()

    def test_pruning_keeps_what_waits_and_drops_what_was_superseded(self, make):
        production = make()
        first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
        older = production.propose(draft(first, [upload("a", {"s1": "2"})]))
        newer = production.propose(draft(first, [upload("a", {"s1": "3"})]))
        assert older.champions["s1"].ref in production.prune(0)
        assert production.waiting() == newer
        production.approve(newer.release_id, "me", "")
        assert served(production, production.live()) == {"s1": "3"}

    def test_of_two_approvals_at_once_both_say_the_same_or_one_loses_cleanly(self, make):
        production = make()
        one = production.propose(draft(None, [upload("a", {"s1": "1"})]))
        results = []

        def approve(actor: str) -> None:
            results.append(production.approve(one.release_id, actor, ""))

        threads = [threading.Thread(target=approve, args=(actor,)) for actor in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 2
        assert results[0] == results[1] == production.live()

    @SOME
    @given(data=st.data())
    @pytest.mark.slow
    def test_any_history_of_publications_rollbacks_and_prunings_serves_what_was_published(self, make, again, data):
        check_production_history(make(), again, data, steps=6)


def check_production_history(production, again, data, steps: int) -> None:
    """Publishes, proposes, approves, rolls back and prunes at random; what each release serves is known from dicts."""
    live: Release | None = None
    waiting: tuple[Release, dict[str, str]] | None = None  # the newest proposal, whatever it was made for
    kept: dict[str, dict[str, str]] = {}
    actions = ["publish", "publish", "propose", "approve", "reject", "activate", "prune"]
    for step in range(data.draw(st.integers(1, steps))):
        current = live.release_id if live else ""
        match data.draw(st.sampled_from(actions)):
            case "approve" if waiting and waiting[0].previous == current:
                live = production.approve(waiting[0].release_id, "me", str(step))
                assert live.approval == Approval("me", str(step), NOW)
                kept[live.release_id] = waiting[1]
                waiting = None
            case "reject" if waiting and waiting[0].previous == current:
                production.reject(waiting[0].release_id, "me", "")
                waiting = None
            case "activate" if kept:
                live = production.activate(list(kept)[data.draw(st.integers(0, len(kept) - 1))])  # ids are random
            case "prune":
                production.prune(data.draw(st.integers(0, 3)))
                waiting = waiting if waiting and waiting[0].previous == current else None
                kept = {release.release_id: kept[release.release_id] for release in production.releases()}
            case action:
                fate = {name: data.draw(st.sampled_from(["promoted", "removed", "untouched"])) for name in "abcd"}
                promoted = [name for name in fate if fate[name] == "promoted"]
                removed = [name for name in fate if fate[name] == "removed"]
                before = kept[live.release_id] if live else {}
                values = {n: v for n, v in before.items() if n not in removed} | dict.fromkeys(promoted, str(step))
                groups = {
                    p: {n: values[n] for n in names if n in values} for p, names in {"p": "ab", "q": "cd"}.items()
                }
                packs = [upload(p, rows) for p, rows in groups.items() if set(rows) & set(promoted)]
                made = draft(live, packs, promoted=promoted, removed=removed)
                if action == "propose":
                    waiting = production.propose(made), values
                else:
                    live = production.publish(made)
                    kept[live.release_id] = values
        reader = again(production) if data.draw(st.booleans()) else production
        assert reader.live() == live
        if live:
            assert served(reader, live) == kept[live.release_id]
        waits = waiting if waiting and waiting[0].previous == (live.release_id if live else "") else None
        assert reader.waiting() == (waits and waits[0])
        if waits:
            assert served(reader, waits[0]) == waits[1]
    assert {release.release_id: served(production, release) for release in production.releases()} == kept
