"""What a factorial grid of runs says: effects by value, intervals by simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import Random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.factorial import Contrast, Effects, Interaction, Observation, analyse
from autoresearch.judging.statistics import Noise

WIDTH, RATE, DEPTH = (512.0, 640.0, 768.0), (0.03, 0.04), (8.0, 12.0)
TWO: Mapping[str, Sequence[float]] = {"WIDTH": WIDTH, "RATE": RATE}
THREE: Mapping[str, Sequence[float]] = {**TWO, "DEPTH": DEPTH}
SQUARE: Mapping[str, Sequence[float]] = {"WIDTH": WIDTH[:2], "RATE": RATE}
Truth = Callable[..., float]
REPEATS = 400


def run(*levels: float, value: float, kind: str = "H100") -> Observation:
    return Observation(levels=levels, kind=kind, value=value)


def grid(factors: Mapping[str, Sequence[float]], truth: Truth, *kinds: str) -> list[Observation]:
    """One run of every cell on every kind, without noise."""
    cells = list(product(*factors.values()))
    return [run(*cell, value=truth(*cell), kind=kind) for kind in kinds or ("H100",) for cell in cells]


def noisy(runs: list[Observation], rng: Random, **sigma: float) -> list[Observation]:
    return [run(*r.levels, kind=r.kind, value=r.value + rng.gauss(0, sigma[r.kind])) for r in runs]


def additive(width: float, rate: float, depth: float = 0.0) -> float:
    return 1.0 - 1e-4 * (width - 512) + 2.0 * (rate - 0.03) + 1e-3 * depth


def crossed(width: float, rate: float, depth: float = 0.0) -> float:
    return additive(width, rate, depth) + 0.02 * (width == 768.0) * (rate == 0.04)


def effect(effects: Effects, name: str, level: float) -> Contrast:
    return effects.main[name].levels[level]


def numbers(effects: Effects) -> list[float]:
    """Every number of the effects, the interactions by their sorted pairs."""
    mains = [effects.main[name] for name in sorted(effects.main)]
    found = [main.p for main in mains]
    contrasts = [c for main in mains for _, c in sorted(main.levels.items())]
    for _, pair in sorted(effects.interactions.items(), key=lambda item: sorted(item[0])):
        found += [pair.p, *sorted(pair.at or ())]
        contrasts.append(pair.departure)
    found += [number for c in contrasts for number in (c.value, c.half_width)]
    return [-1.0 if number is None else number for number in found]


def covered(contrast: Contrast, truth: float) -> bool:
    assert contrast.value is not None
    assert contrast.half_width is not None
    return abs(contrast.value - truth) <= contrast.half_width


def guess(rng: Random, sigma: float, df: int) -> Noise:
    """A noise as it would be measured."""
    return Noise(sigma=(sum(rng.gauss(0, sigma) ** 2 for _ in range(df)) / df) ** 0.5, df=df)


class TestWithoutNoise:
    def test_effects_of_a_full_grid_are_recovered_exactly(self):
        found = analyse(THREE, grid(THREE, additive), {})
        assert found.main["WIDTH"].against == 512.0
        assert effect(found, "WIDTH", 640.0).value == pytest.approx(-0.0128)
        assert effect(found, "WIDTH", 768.0).value == pytest.approx(-0.0256)
        assert effect(found, "RATE", 0.04).value == pytest.approx(0.02)
        assert effect(found, "DEPTH", 12.0).value == pytest.approx(0.004)
        assert [pair.departure.value for pair in found.interactions.values()] == pytest.approx([0] * 3)
        assert (found.cells_measured, found.cells) == (12, 12)

    def test_a_two_by_two_interaction_is_the_classic_contrast(self):
        a, b, c, d = 1.0, 1.1, 1.3, 1.75
        runs = [run(w, r, value=v) for (w, r), v in zip(product(*SQUARE.values()), (a, b, c, d), strict=True)]
        pair = analyse(SQUARE, runs, {}).interactions["WIDTH", "RATE"]
        assert pair == Interaction(departure=Contrast(value=pytest.approx((d - c) - (b - a))))

    def test_a_larger_pair_reports_the_cell_that_departs_most(self):
        pair = analyse(TWO, grid(TWO, crossed), {}).interactions["WIDTH", "RATE"]
        assert pair.at == (768.0, 0.04)
        assert pair.departure.value == pytest.approx(0.02 * (1 - 1 / 2 - 1 / 3 + 1 / 6))

    def test_effects_are_averaged_equally_over_the_other_levels_however_often_each_ran(self):
        runs = grid(TWO, crossed) + [run(768.0, 0.04, value=crossed(768.0, 0.04))] * 5
        assert effect(analyse(TWO, runs, {}), "WIDTH", 768.0).value == pytest.approx(-0.0256 + 0.01)

    def test_repeats_that_agree_exactly_give_no_intervals_and_say_so(self):
        found = analyse(TWO, grid(TWO, crossed) * 2, {})
        assert found.source == "replicates"
        assert effect(found, "RATE", 0.04).half_width is None
        assert found.main["RATE"].p is None
        assert found.notes == ("the replicates show no noise at all: effects have no intervals",)

    def test_a_grid_of_one_factor_has_differences_from_its_first_level(self):
        runs = [run(w, value=v) for w, v in zip(WIDTH, (1.0, 0.9, 1.2), strict=True)]
        found = analyse({"WIDTH": WIDTH}, runs, {"H100": Noise(sigma=0.01, df=5)})
        assert [c.value for c in found.main["WIDTH"].levels.values()] == pytest.approx([-0.1, 0.2])
        assert found.interactions == {}
        assert found.main["WIDTH"].levels[640.0].half_width == pytest.approx(2.570582 * 0.01 * 2**0.5)


class TestMissingCells:
    def test_a_pair_with_a_missing_cell_is_taken_to_add_and_the_rest_is_recovered(self):
        runs = [r for r in grid(THREE, additive) if r.levels[:2] != (768.0, 0.04)]
        found = analyse(THREE, runs, {})
        assert effect(found, "WIDTH", 768.0).value == pytest.approx(-0.0256)
        assert found.interactions["WIDTH", "RATE"] == Interaction()
        assert found.interactions["RATE", "DEPTH"].departure.value == pytest.approx(0)
        assert found.notes[0] == "WIDTH x RATE: 1 of 6 cells are missing; taken to add"
        assert (found.cells_measured, found.cells) == (10, 12)

    def test_a_cell_missing_at_one_level_of_a_third_factor_hides_nothing(self):
        found = analyse(THREE, grid(THREE, crossed)[:-1], {})
        assert effect(found, "WIDTH", 768.0).value == pytest.approx(-0.0256 + 0.01)
        assert found.interactions["WIDTH", "RATE"].at == (768.0, 0.04)
        assert not any("missing" in note for note in found.notes)

    def test_a_level_without_runs_has_no_effect_and_leaves_the_others_theirs(self):
        runs = [r for r in grid(TWO, crossed) if r.levels[0] != 512.0]
        found = analyse(TWO, runs, {})
        assert found.main["WIDTH"].against == 640.0
        assert effect(found, "WIDTH", 512.0) == Contrast()
        assert effect(found, "WIDTH", 768.0).value == pytest.approx(-0.0128 + 0.01)
        assert found.interactions["WIDTH", "RATE"].departure.value == pytest.approx(0.02)
        assert "WIDTH: 512 was not measured" in found.notes

    def test_a_factor_measured_at_one_level_has_no_effect(self):
        found = analyse(TWO, [r for r in grid(TWO, crossed) if r.levels[1] == 0.03], {})
        assert effect(found, "RATE", 0.04) == Contrast()
        assert found.main["RATE"].against is None
        assert found.interactions["WIDTH", "RATE"] == Interaction()
        assert effect(found, "WIDTH", 640.0).value == pytest.approx(-0.0128)
        assert "RATE: only 0.03 was measured" in found.notes

    def test_factors_that_changed_only_together_have_no_effect_of_their_own(self):
        found = analyse(SQUARE, [run(512.0, 0.03, value=1.0), run(640.0, 0.04, value=2.0)], {})
        assert effect(found, "WIDTH", 640.0) == Contrast()
        assert effect(found, "RATE", 0.04) == Contrast()
        assert "WIDTH: 640 is confounded with kinds or other effects" in found.notes
        assert "WIDTH x RATE: 2 of 4 cells are missing; taken to add" in found.notes

    def test_a_factor_that_changed_with_the_kind_has_no_effect_but_its_interaction_has(self):
        kinds = {512.0: "H100", 640.0: "H200"}
        runs = [run(*r.levels, kind=kinds[r.levels[0]], value=r.value) for r in grid(SQUARE, additive)]
        found = analyse(SQUARE, runs, {})
        assert effect(found, "WIDTH", 640.0) == Contrast()
        assert effect(found, "RATE", 0.04).value == pytest.approx(0.02)
        assert found.interactions["WIDTH", "RATE"].departure.value == pytest.approx(0)

    def test_one_cell_alone_on_its_kind_hides_the_interaction(self):
        *most, last = grid(SQUARE, additive)
        found = analyse(SQUARE, [*most, run(*last.levels, kind="H200", value=7.0)], {})
        assert found.interactions["WIDTH", "RATE"] == Interaction()
        assert effect(found, "WIDTH", 640.0).value == pytest.approx(-0.0128)
        assert "WIDTH x RATE: confounded with kinds or other effects; taken to add" in found.notes

    def test_nothing_measured_is_said(self):
        found = analyse(TWO, [], {"H100": Noise(sigma=0.1, df=3)})
        assert found.notes[0] == "no cell was measured"
        assert effect(found, "WIDTH", 640.0) == Contrast()
        assert (found.cells_measured, found.cells, found.noise) == (0, 6, None)


class TestNoise:
    def test_too_few_runs_to_tell_noise_give_effects_without_intervals(self):
        found = analyse(SQUARE, noisy(grid(SQUARE, crossed), Random(1), H100=0.1), {})
        assert (found.noise, found.source) == (None, None)
        assert effect(found, "RATE", 0.04).half_width is None
        assert found.notes == ("too few runs to tell noise: effects have no intervals",)

    def test_repeats_are_pooled_with_the_given_noise_by_degrees_of_freedom(self):
        runs = [*grid(SQUARE, additive), run(512.0, 0.03, value=additive(512.0, 0.03) + 0.2)]
        found = analyse(SQUARE, runs, {"H100": Noise(sigma=0.3, df=3), "A100": Noise(sigma=9, df=9)})
        assert found.noise == Noise(sigma=pytest.approx(((3 * 0.09 + 0.02) / 4) ** 0.5), df=4)
        assert found.source == "replicates"

    def test_runs_of_one_cell_on_two_kinds_are_no_repeats(self):
        found = analyse(SQUARE, [*grid(SQUARE, additive), run(512.0, 0.03, kind="H200", value=3.0)], {})
        assert found.source is None

    def test_without_repeats_the_residuals_are_the_noise(self):
        rng = Random(2)
        found = analyse(SQUARE, noisy(grid(SQUARE, additive, "H100", "H200"), rng, H100=0.1, H200=0.1), {})
        assert found.source == "residuals"
        assert found.noise is not None
        assert found.noise.df == 3

    def test_an_unknown_kind_is_taken_to_be_as_noisy_as_the_known(self):
        runs = grid(SQUARE, additive, "H100", "H200")
        found = analyse(SQUARE, runs, {"H100": Noise(sigma=0.1, df=5)})
        assert found.notes == ("the noise of H200 is taken to be that of H100",)

    def test_barely_known_noise_sets_no_weights(self):
        runs = noisy(grid(TWO, additive, "H100", "H200"), Random(3), H100=0.001, H200=0.1)
        noise = {"H100": Noise(sigma=0.001, df=9), "H200": Noise(sigma=0.1, df=20)}
        weighed, even = analyse(TWO, runs, noise), analyse(TWO, runs, {})
        assert effect(weighed, "RATE", 0.04).value == pytest.approx(effect(even, "RATE", 0.04).value)
        assert weighed.notes == ("noise differs by kind: H100 0.001, H200 0.1",)

    def test_runs_on_a_noisier_kind_weigh_less(self):
        rng = Random(3)
        steady, rough = {"H100": Noise(sigma=0.001, df=20)}, {"H200": Noise(sigma=0.1, df=20)}
        runs = noisy(grid(TWO, additive, "H100", "H200"), rng, H100=0.001, H200=0.1)
        both = effect(analyse(TWO, runs, steady | rough), "WIDTH", 768.0)
        alone = effect(analyse(TWO, [r for r in runs if r.kind == "H100"], steady), "WIDTH", 768.0)
        assert both.value == pytest.approx(alone.value, abs=1e-4)
        assert both.half_width == pytest.approx(alone.half_width, rel=0.02)
        assert analyse(TWO, runs, steady | rough).notes[0].startswith("noise differs by kind")


class TestInvariance:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_the_order_of_factors_and_runs_changes_nothing(self, data: st.DataObject):
        runs = noisy(grid(THREE, crossed, "H100", "H200"), Random(5), H100=0.01, H200=0.01)
        kept = data.draw(st.lists(st.sampled_from(runs), min_size=1, max_size=30))
        order = data.draw(st.permutations(range(3)))
        names = list(THREE)
        turned = [run(*(r.levels[i] for i in order), kind=r.kind, value=r.value) for r in kept]
        again = analyse({names[i]: THREE[names[i]] for i in order}, data.draw(st.permutations(turned)), {})
        assert numbers(again) == pytest.approx(numbers(analyse(THREE, kept, {})), abs=1e-7)

    @settings(max_examples=40, deadline=None)
    @given(
        offset=st.floats(-1, 1),
        kinds=st.lists(st.sampled_from(["H100", "H200", "A100"]), min_size=18, max_size=18),
    )
    def test_what_a_kind_adds_to_all_its_runs_changes_no_effect(self, offset: float, kinds: list[str]):
        runs = [
            run(*r.levels, kind=kind, value=r.value)
            for r, kind in zip(noisy(grid(TWO, crossed) * 3, Random(6), H100=0.01), kinds, strict=True)
        ]
        moved = [run(*r.levels, kind=r.kind, value=r.value + offset * (r.kind == "H200")) for r in runs]
        assert numbers(analyse(TWO, moved, {})) == pytest.approx(numbers(analyse(TWO, runs, {})), abs=1e-7)

    def test_half_a_grid_on_another_kind_keeps_its_effects(self):
        runs = [
            run(*r.levels, kind=kind, value=r.value + (0.005 if kind == "H200" else 0.0))
            for i, r in enumerate(grid(THREE, crossed))
            for kind in [("H100", "H200")[(i + i // 2 + i // 4) % 2]]
        ]
        found, on_one = analyse(THREE, runs, {}), analyse(THREE, grid(THREE, crossed), {})
        for name, level in (("WIDTH", 640.0), ("WIDTH", 768.0), ("RATE", 0.04), ("DEPTH", 12.0)):
            assert effect(found, name, level).value == pytest.approx(effect(on_one, name, level).value)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.sampled_from(grid(THREE, crossed, "H100", "H200")), max_size=24))
    def test_whatever_is_missing_an_effect_is_right_or_none_where_factors_add(self, runs: list[Observation]):
        found = analyse(THREE, [run(*r.levels, kind=r.kind, value=additive(*r.levels)) for r in runs], {})
        for axis, (name, main) in enumerate(found.main.items()):
            for level, contrast in main.levels.items():
                if contrast.value is not None:
                    ends = [[512.0, 0.03, 8.0], [512.0, 0.03, 8.0]]
                    ends[0][axis], ends[1][axis] = level, main.against or 0.0
                    assert contrast.value == pytest.approx(additive(*ends[0]) - additive(*ends[1]), abs=1e-9)
                else:
                    assert any(note.startswith((f"{name}:", "no cell")) for note in found.notes)

    @pytest.mark.parametrize(
        "bad",
        [run(512.0, 0.05, value=1.0), run(512.0, value=1.0), run(512.0, 0.03, value=float("nan"))],
        ids=["level", "length", "value"],
    )
    def test_a_run_outside_the_grid_is_refused(self, bad: Observation):
        with pytest.raises(ValueError, match="pass finite values of its cells"):
            analyse(TWO, [bad], {})

    def test_a_confidence_in_percent_is_refused(self):
        with pytest.raises(ValueError, match="use a fraction"):
            analyse(TWO, [], {}, confidence=95)


@pytest.mark.slow
class TestLongRun:
    """Seeded simulations; the bounds are three standard errors or more away."""

    @pytest.mark.parametrize("source", ["replicates", "residuals"])
    def test_intervals_cover_the_truth_as_often_as_they_say(self, source: str):
        rng, hits, runs = Random(4), [], grid(TWO, crossed, "H100", "H200")[:-1]
        for _ in range(REPEATS):
            noise = {kind: guess(rng, 0.01, 4) for kind in ("H100", "H200")} if source == "replicates" else {}
            found = analyse(TWO, noisy(runs, rng, H100=0.01, H200=0.01), noise)
            assert found.source == source
            hits.append(covered(effect(found, "WIDTH", 768.0), -0.0256 + 0.01))
            hits.append(covered(effect(found, "RATE", 0.04), 0.02 + 0.02 / 3))
        assert 0.92 < mean(hits) < 0.98

    @pytest.mark.parametrize("df", [4, 12], ids=["alike", "weighted"])
    def test_intervals_cover_the_truth_where_kinds_differ_in_noise(self, df: int):
        rng, hits, runs = Random(7), [], grid(TWO, crossed, "H100", "H200")[:-1]
        for _ in range(REPEATS):
            noise = {"H100": guess(rng, 0.01, df), "H200": guess(rng, 0.03, df)}
            found = analyse(TWO, noisy(runs, rng, H100=0.01, H200=0.03), noise)
            hits.append(covered(effect(found, "WIDTH", 768.0), -0.0256 + 0.01))
            hits.append(covered(effect(found, "RATE", 0.04), 0.02 + 0.02 / 3))
        assert 0.92 < mean(hits) < 0.98

    @pytest.mark.parametrize("source", ["replicates", "residuals"])
    def test_a_null_interaction_is_declared_one_time_in_twenty(self, source: str):
        rng, ps, runs = Random(8), [], grid(TWO, additive, "H100", "H200")
        for _ in range(REPEATS):
            noise = {"H100": guess(rng, 0.01, 5)} if source == "replicates" else {}
            found = analyse(TWO, noisy(runs, rng, H100=0.01, H200=0.01), noise)
            ps.append(found.interactions["WIDTH", "RATE"].p or 0.0)
        assert 0.02 < mean(p < 0.05 for p in ps) < 0.08

    def test_a_large_interaction_is_declared(self):
        runs = noisy(grid(TWO, crossed, "H100", "H200"), Random(9), H100=0.001, H200=0.001)
        assert (analyse(TWO, runs, {}).interactions["WIDTH", "RATE"].p or 1.0) < 0.01
