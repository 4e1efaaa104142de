from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.frames import Sampling, Timeline


def timeline(pts: list[int], time_base: Fraction, keys: tuple[int, ...] = (0,)) -> Timeline:
    step = pts[-1] - pts[-2] if len(pts) > 1 else 1
    return Timeline(np.array(pts), np.isin(np.arange(len(pts)), keys), time_base, pts[-1] + step)


NTSC = timeline([1001 * k for k in range(300)], Fraction(1, 30000), (0, 100, 200))


def test_one_fps_of_ntsc_takes_the_frame_on_screen_at_each_whole_second():
    chosen = Sampling("fps").choose(NTSC)
    assert len(chosen) == 11  # 300 frames last 10.01 s, so second 10 begins
    assert NTSC.times[chosen][:3].tolist() == pytest.approx([0.0, 29 * 1001 / 30000, 59 * 1001 / 30000], abs=1e-12)


def test_a_frame_stamped_a_rounding_later_is_on_screen_at_its_own_time():
    mkv = timeline([round(1000 * k / 30) for k in range(90)], Fraction(1, 1000))
    assert Sampling("fps", Fraction(30)).choose(mkv).tolist() == list(range(90))


def test_coarse_time_bases_do_not_round_half_a_frame_early():
    avi = timeline(list(range(240)), Fraction(1001, 30000))
    assert Sampling("fps").choose(avi).tolist() == [0, 29, 59, 89, 119, 149, 179, 209, 239]


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=40),
    st.fractions(Fraction(1, 10), 60, max_denominator=1001),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 30000), Fraction(1, 25)]),
)
def test_fps_equals_a_plain_search_on_variable_rates(steps: list[int], fps: Fraction, time_base: Fraction):
    pts = np.concatenate([[0], np.cumsum(steps)])
    line = Timeline(pts[:-1], np.ones(len(steps), bool), time_base, int(pts[-1]))
    early = min(time_base / 2, Fraction(1, 2000))
    expected, k = [], 0
    while k == 0 or k / fps < line.end * time_base - 2 * early:
        expected.append(max(i for i, stamp in enumerate(line.pts) if int(stamp) * time_base <= k / fps + early))
        k += 1
    assert Sampling("fps", fps).choose(line).tolist() == expected


def test_every_counts_from_the_first_frame_of_the_window():
    assert Sampling("every", Fraction(10)).choose(NTSC, 1.0, 2.0).tolist() == [30, 40, 50]


def test_count_spreads_evenly_and_repeats_frames_of_a_short_clip():
    assert Sampling("count", Fraction(4)).choose(NTSC).tolist() == [37, 112, 187, 262]
    assert Sampling("count", Fraction(4)).choose(timeline([0, 1], Fraction(1, 25))).tolist() == [0, 0, 1, 1]


def test_keyframes_and_all_keep_to_the_window():
    assert Sampling("keyframes").choose(NTSC).tolist() == [0, 100, 200]
    assert Sampling("keyframes").choose(NTSC, 3.0, 5.0).tolist() == [100]
    assert Sampling("all").choose(NTSC, 9.9).tolist() == [297, 298, 299]


def test_a_window_without_a_keyframe_gives_the_frame_on_screen_at_its_start():
    assert Sampling("keyframes").choose(NTSC, 1.0, 2.0).tolist() == [29]


def test_windows_are_clamped_to_the_media():
    assert Sampling("fps").choose(NTSC, 9.0, 99.0).tolist() == [269, 299]


@pytest.mark.parametrize("window", [(10.5, None), (3.0, 3.0), (11.0, 12.0)])
def test_an_empty_window_says_how_long_the_media_is(window):
    with pytest.raises(InputError, match=r"the media lasts 10\.010 s"):
        Sampling("fps").choose(NTSC, *window)


@pytest.mark.parametrize(("mode", "value"), [("fps", 0), ("every", Fraction(3, 2)), ("count", -1)])
def test_senseless_plans_are_refused(mode, value):
    with pytest.raises(InputError, match=f"--{mode}"):
        Sampling(mode, Fraction(value))
