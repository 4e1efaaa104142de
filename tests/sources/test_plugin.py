"""A dataset of one's own is one file: nothing of embedshard is touched, and it keeps every promise of a source."""

from __future__ import annotations

import importlib
import sys

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import all_sources, get_source
from tests.sources.test_conformance import check_description, check_prepare, check_whole_way

MODULE = '''
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import MISSING_MEDIA, Source, media_index, tree_error


class Birds(Source):
    name = "birds"
    title = "Birds of our garden"
    kind = "caption"
    modality = "video"
    splits = {"given": ("train", "test")}
    expects = """
birds.txt    SPLIT NAME CAPTION in every line
NAME.mp4
"""

    def samples(self, root, options):
        if not (root / "birds.txt").is_file():
            raise tree_error(self, root, "expected birds.txt")
        media = media_index(root, "video")
        for line in (root / "birds.txt").read_text(encoding="utf-8").splitlines():
            split, name, caption = line.split(" ", 2)
            if name in media:
                yield Sample(make_key(name), split, Media(name, media[name], "video"), caption, {"bird": name})
            else:
                yield LeftOut(name, MISSING_MEDIA)

    def demo(self, tree):
        tree.text("birds.txt", "train a.b a robin\\ntest -c ein Spatz, zwei Spatzen\\ntrain gone a crow\\n")
        tree.video("a.b.mp4", "robin")
        tree.video("-c.mkv", "sparrow")
'''


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """Install a package with one module, as pip would lay it out."""
    site = tmp_path / "site"
    (site / "birds-1.0.dist-info").mkdir(parents=True)
    (site / "birds-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: birds\nVersion: 1.0\n")
    (site / "birds-1.0.dist-info/entry_points.txt").write_text("[embedshard.sources]\nbirds = birds\n")
    (site / "birds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield all_sources()["birds"]
    sys.modules.pop("birds", None)


def test_one_file_adds_a_dataset(birds, tmp_path, encoder):
    raw = tmp_path / "raw"
    birds.demo(Tree(raw))
    check_description(birds)
    for way in birds.splits:
        check_prepare(birds, raw, way, tmp_path / way)
    check_whole_way(birds, raw, tmp_path / "out", encoder)


def test_it_is_known_by_name_and_says_what_it_expects(birds, tmp_path):
    with pytest.raises(InputError, match=r"(?s)birds: expected birds\.txt.*SPLIT NAME CAPTION.*found:.*site/"):
        list(get_source("birds").samples(tmp_path, birds.options()))
    with pytest.raises(InputError, match=r"did you mean birds\?"):
        get_source("brids")
