"""The jail's fonts: those of matplotlib and of the font packages, under their own names and under names of other systems' fonts.

Code asks for the fonts of its author's machine: SimHei, Arial, `ImageFont.truetype("msyh.ttc")`. Each such name stands for a font
of the jail that has the glyphs, so that nothing is drawn as empty boxes and no label is warned about. matplotlib reads the names
from its font cache, Pillow from a directory of links.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_JAILED_PYTHON, _JAILED_FONTS = "/opt/python", "/opt/fonts"
_LIST_FONTS = """
import pathlib, sys
import matplotlib, matplotlib.font_manager as manager
for path in sorted(pathlib.Path(sys.argv[1]).glob("*/**/*.[ot]tf")):
    if path.is_relative_to(matplotlib.get_data_path()) or "cmr10" in path.name: continue
    if path.relative_to(sys.argv[1]).parts[0].startswith(("fontpkg_", "noto_")): manager.fontManager.addfont(path)
(cache,) = pathlib.Path(matplotlib.get_cachedir()).glob("fontlist-*.json")
manager.json_dump(manager.fontManager, cache)
"""

_SANS, _SERIF, _MONO, _CJK = "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "Noto Sans CJK JP"
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    _CJK: (
        "SimHei", "SimSun", "NSimSun", "KaiTi", "FangSong", "DengXian", "YouYuan", "Microsoft YaHei", "Microsoft JhengHei",
        "STHeiti", "STSong", "STKaiti", "STFangsong", "STXihei", "Heiti SC", "Heiti TC", "Songti SC", "PingFang SC", "PingFang TC",
        "PingFang HK", "Hiragino Sans GB", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Arial Unicode MS",
        "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK HK", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans TC",
        "Noto Sans JP", "Noto Sans KR", "Noto Serif CJK SC", "Noto Serif CJK JP", "Source Han Sans CN", "Source Han Sans SC",
        "Source Han Sans JP", "Source Han Sans KR", "MS Gothic", "MS PGothic", "MS Mincho", "Yu Gothic", "Meiryo", "Hiragino Sans",
        "Hiragino Kaku Gothic Pro", "Hiragino Maru Gothic Pro", "IPAexGothic", "IPAGothic", "IPAPGothic", "TakaoGothic",
        "TakaoPGothic", "VL Gothic", "Malgun Gothic", "NanumGothic", "NanumBarunGothic", "AppleGothic", "Apple SD Gothic Neo",
        "Gulim", "Dotum", "Batang",
    ),
    _SANS: (
        "Arial", "Helvetica", "Helvetica Neue", "Verdana", "Tahoma", "Calibri", "Segoe UI", "Trebuchet MS", "Lucida Grande",
        "Lucida Sans Unicode", "Geneva", "Liberation Sans", "Bitstream Vera Sans", "FreeSans", "Roboto", "Open Sans", "Lato",
        "Inter", "Noto Sans",
    ),
    _SERIF: ("Times New Roman", "Times", "Georgia", "Cambria", "Garamond", "Palatino", "Liberation Serif", "Noto Serif"),
    _MONO: ("Courier New", "Courier", "Consolas", "Menlo", "Monaco", "Lucida Console", "Liberation Mono"),
    "Noto Sans Thai": ("Leelawadee UI", "Leelawadee", "Thonburi", "Sarabun", "TH Sarabun New", "Loma", "Garuda"),
    "Noto Sans Devanagari": ("Mangal", "Nirmala UI", "Kohinoor Devanagari", "Lohit Devanagari", "Devanagari MT"),
    "Hind Siliguri": ("Vrinda", "Noto Sans Bengali", "Lohit Bengali", "Kalpurush"),
    "Noto Sans Tamil": ("Latha", "Lohit Tamil"),
    "Noto Sans Telugu": ("Gautami", "Lohit Telugu"),
}  # fmt: skip
"""The names that stand for a family of the jail."""

_FILES: Mapping[str, tuple[str, ...]] = {
    "DejaVuSans.ttf": (
        "arial.ttf", "Arial.ttf", "ARIAL.TTF", "helvetica.ttf", "Helvetica.ttf", "Helvetica.ttc", "verdana.ttf", "Verdana.ttf",
        "tahoma.ttf", "calibri.ttf", "segoeui.ttf", "FreeSans.ttf", "LiberationSans-Regular.ttf", "Roboto-Regular.ttf",
        "OpenSans-Regular.ttf", "NotoSans-Regular.ttf", "Ubuntu-R.ttf",
    ),
    "DejaVuSans-Bold.ttf": (
        "arialbd.ttf", "Arial_Bold.ttf", "Arial Bold.ttf", "calibrib.ttf", "FreeSansBold.ttf", "LiberationSans-Bold.ttf",
        "Roboto-Bold.ttf", "OpenSans-Bold.ttf", "NotoSans-Bold.ttf",
    ),
    "DejaVuSerif.ttf": ("times.ttf", "Times.ttf", "Times New Roman.ttf", "georgia.ttf", "LiberationSerif-Regular.ttf"),
    "DejaVuSansMono.ttf": ("cour.ttf", "Courier New.ttf", "consola.ttf", "Menlo.ttc", "Monaco.ttf", "LiberationMono-Regular.ttf"),
    "NotoSansCJKjp-Regular.otf": (
        "simhei.ttf", "SimHei.ttf", "simsun.ttc", "SimSun.ttf", "simsun.ttf", "simkai.ttf", "simfang.ttf", "msyh.ttc", "msyh.ttf",
        "msyhbd.ttc", "msjh.ttc", "PingFang.ttc", "STHeiti Light.ttc", "STHeiti Medium.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc",
        "DroidSansFallback.ttf", "DroidSansFallbackFull.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJK-Bold.ttc",
        "NotoSansCJKsc-Regular.otf", "NotoSansCJKtc-Regular.otf", "NotoSansCJKkr-Regular.otf", "NotoSansSC-Regular.otf",
        "NotoSansSC-Regular.ttf", "NotoSansJP-Regular.otf", "NotoSansKR-Regular.otf", "SourceHanSansSC-Regular.otf",
        "SourceHanSansCN-Regular.otf", "arialuni.ttf", "Arial Unicode.ttf", "msgothic.ttc", "meiryo.ttc", "YuGothM.ttc",
        "ipaexg.ttf", "ipag.ttf", "malgun.ttf", "NanumGothic.ttf", "AppleGothic.ttf", "gulim.ttc",
    ),
}  # fmt: skip
"""The file names that stand for a font file of the jail."""


def prepare(staging: Path, site_packages: Path, command: list[str], environment: dict[str, str]) -> None:
    """Fills `staging/fonts`, which is mounted at /opt/fonts: matplotlib's font cache, and `truetype/` for Pillow.

    `command` runs the staged interpreter on the source that follows. Without matplotlib there is no cache. The host's own fonts,
    which the jail does not have, are left out.
    """
    fonts = staging / "fonts"
    fonts.mkdir()
    listing = [*command, _LIST_FONTS, str(site_packages)]
    subprocess.run(listing, env=environment | {"MPLCONFIGDIR": str(fonts)}, capture_output=True, check=False)
    for cache in fonts.glob("fontlist-*.json"):
        content = json.loads(cache.read_text())
        for kind in ("ttflist", "afmlist"):
            content[kind] = [_moved(font, staging) for font in content[kind] if _is_ours(font, staging)]
        content["ttflist"] += _aliases(content["ttflist"])
        cache.write_text(json.dumps(content))
    _link_files(fonts / "truetype", site_packages, staging)


def _is_ours(font: Mapping[str, Any], staging: Path) -> bool:
    return not font["fname"].startswith("/") or font["fname"].startswith(str(staging))


def _moved(font: Mapping[str, Any], staging: Path) -> dict[str, Any]:
    return {**font, "fname": font["fname"].replace(str(staging / "python"), _JAILED_PYTHON)}


def _aliases(fonts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**font, "name": name} for font in fonts for name in _FAMILIES.get(font["name"], ())]


def _link_files(directory: Path, site_packages: Path, staging: Path) -> None:
    directory.mkdir()
    for path in sorted(site_packages.glob("**/*.[ot]tf")):
        target = str(path).replace(str(staging / "python"), _JAILED_PYTHON)
        for name in (path.name, *_FILES.get(path.name, ())):
            (directory / name).unlink(missing_ok=True)
            (directory / name).symlink_to(target)
