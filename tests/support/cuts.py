"""Rules to cut attention by, and what each of them means."""

import pytest

from tests.support.hugging_face import Cut

OMNI_CUTS = [
    Cut("G !-> V", "generated", "video"),
    Cut("G !-> A", "generated", "audio"),
    Cut("G !-> G @ 1-3", "generated", "generated", (1, 2, 3)),
    Cut("G+last !-> V", "generated+last", "video"),
    Cut("last !-> A", "last", "audio"),
    Cut("A !-> V", "audio", "video"),
    Cut("A !-> Q", "audio", "question"),
    Cut("V !-> Q+system @ 0", "video", "question+system", (0,)),
    Cut("G !-> V @ 1-2", "generated", "video", (1, 2)),
    Cut("G !-> A @ 0,2-3 H1", "generated", "audio", (0, 2, 3), (1,)),
    Cut("G+last !-> A @ 0,3 H1,2", "generated+last", "audio", (0, 3), (1, 2)),
    Cut("last !-> audio@1.0-2.0s @ 2", "last", "audio@1.0-2.0s", (2,)),
    Cut("G !-> V.frame1 @ 1 H0,3", "generated", "frame 1", (1,), (0, 3)),
    Cut("A+generated !-> video@0-1s", "audio+generated", "video@0-1s"),
    Cut("G !-> text H2-3", "generated", "text", heads=(2, 3)),
    Cut("question+last !-> system", "question+last", "system"),
]
VL_CUTS = [
    Cut("G !-> V", "generated", "video"),
    Cut("G+last !-> V", "generated+last", "video"),
    Cut("last !-> V.frame0 @ 1-2", "last", "frame 0", (1, 2)),
    Cut("V !-> Q", "video", "question"),
    Cut("V.frame2 !-> V.frame0", "frame 2", "frame 0"),
    Cut("G !-> V.frame2 @ 3 H1", "generated", "frame 2", (3,), (1,)),
    Cut("G !-> Q @ 0-1", "generated", "question", (0, 1)),
]
CUTS = [("omni", cut) for cut in OMNI_CUTS] + [("vl", cut) for cut in VL_CUTS]
every_cut = pytest.mark.parametrize(("name", "cut"), CUTS, ids=[f"{n}: {c.rule}" for n, c in CUTS])
