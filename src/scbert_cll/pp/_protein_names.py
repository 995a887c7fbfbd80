"""Which of a panel's names mean a marker: the marker is a word of the name, and digits never run together.

Names carry prefixes and suffixes of vendors and pipelines, clones, barcodes and codes around the
target (``CD49d-CCATTCAACTTCCGG``, ``CD49d|ITGA4|AHS0063|pAbO``, ``C0576_anti-human_CD49d``). There
is no list of these to take off: the CD numbers of a name are read, and any other target (HLA-DR,
TIGIT) is looked for as words.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

# CD number and gene where one gene makes the target: symbols, earlier symbols and aliases of HGNC
# (genenames.org, CC0, 2018). Left out are numbers of several genes (CD16, CD32) and of
# carbohydrates, whose gene is an enzyme (CD15, CD57).
_GENES: Final = dict(
    re.findall(
        r"(\S+):(\S+)",
        """
10:MME 11a:ITGAL 11b:ITGAM 11c:ITGAX 11d:ITGAD 13:ANPEP 16a:FCGR3A 16b:FCGR3B 18:ITGB2 20:MS4A1 21:CR2 23:FCER2
26:DPP4 29:ITGB1 30:TNFRSF8 31:PECAM1 32a:FCGR2A 32b:FCGR2B 32c:FCGR2C 35:CR1 39:ENTPD1 40l:CD40LG 41:ITGA2B 42a:GP9
42b:GP1BA 42c:GP1BB 42d:GP5 43:SPN 45:PTPRC 49a:ITGA1 49b:ITGA2 49c:ITGA3 49d:ITGA4 49e:ITGA5 49f:ITGA6 50:ICAM3
51:ITGAV 54:ICAM1 56:NCAM1 61:ITGB3 62e:SELE 62l:SELL 62p:SELP 64:FCGR1A 64a:FCGR1A 64b:FCGR1B 64c:FCGR1CP
66a:CEACAM1 66b:CEACAM8 66c:CEACAM6 66d:CEACAM3 66e:CEACAM5 66f:PSG1 71:TFRC 73:NT5E 85a:LILRB3 85b:LILRA6
85c:LILRB5 85d:LILRB2 85e:LILRA3 85f:LILRA5 85g:LILRA4 85h:LILRA2 85i:LILRA1 85j:LILRB1 85k:LILRB4 85l:LILRP1
85m:LILRP2 87:PLAUR 88:C5AR1 89:FCAR 90:THY1 91:LRP1 92:SLC44A1 94:KLRD1 95:FAS 97:ADGRE5 100:SEMA4D 102:ICAM2
103:ITGAE 104:ITGB4 105:ENG 106:VCAM1 107a:LAMP1 107b:LAMP2 108:SEMA7A 110:MPL 111:NECTIN1 112:NECTIN2 112r:PVRIG
113:NECTIN3 114:CSF3R 115:CSF1R 116:CSF2RA 117:KIT 118:LIFR 119:IFNGR1 120a:TNFRSF1A 120b:TNFRSF1B 121a:IL1R1
121b:IL1R2 122:IL2RB 123:IL3RA 124:IL4R 125:IL5RA 126:IL6R 127:IL7R 129:IL9R 130:IL6ST 131:CSF2RB 132:IL2RG
133:PROM1 134:TNFRSF4 135:FLT3 136:MST1R 137:TNFRSF9 138:SDC1 140a:PDGFRA 140b:PDGFRB 141:THBD 142:F3 143:ACE
144:CDH5 146:MCAM 147:BSG 148:PTPRJ 150:SLAMF1 152:CTLA4 153:TNFSF8 154:CD40LG 155:PVR 156a:ADAM8 156b:ADAM17
156c:ADAM10 157:BST1 158a:KIR2DL1 158c:KIR3DP1 158d:KIR2DL4 158f:KIR2DL5A 158g:KIR2DS5 158h:KIR2DS1 158i:KIR2DS4
158j:KIR2DS2 158z:KIR3DL3 159a:KLRC1 159c:KLRC2 161:KLRB1 162:SELPLG 166:ALCAM 167:DDR1 168:HMMR 169:SIGLEC1
170:SIGLEC5 171:L1CAM 172a:SIRPA 172b:SIRPB1 172g:SIRPG 178:FASLG 179a:VPREB1 179b:IGLL1 181:CXCR1 182:CXCR2
183:CXCR3 184:CXCR4 185:CXCR5 186:CXCR6 191:CCR1 192:CCR2 193:CCR3 194:CCR4 195:CCR5 196:CCR6 197:CCR7 200r:CD200R1
201:PROCR 202b:TEK 203c:ENPP3 204:MSR1 205:LY75 206:MRC1 208:LAMP3 210a:IL10RA 212:IL12RB1 213a1:IL13RA1
213a2:IL13RA2 215:IL15RA 217:IL17RA 218a:IL18R1 218b:IL18RAP 220:INSR 221:IGF1R 222:IGF2R 223:LAG3 224:GGT1
225:IFITM1 227:MUC1 228:MELTF 229:LY9 230:PRNP 231:TSPAN7 232:PLXNC1 233:SLC4A1 234:ACKR1 235a:GYPA 235b:GYPB
236:GYPC 238:KEL 239:BCAM 240ce:RHCE 240d:RHD 241:RHAG 242:ICAM4 243:ABCB1 246:ALK 249:ENPEP 252:TNFSF4 253:TNFSF10
254:TNFSF11 256:TNFSF13 257:TNFSF13B 258:TNFSF14 261:TNFRSF10A 262:TNFRSF10B 263:TNFRSF10C 264:TNFRSF10D
265:TNFRSF11A 266:TNFRSF12A 267:TNFRSF13B 268:TNFRSF13C 269:TNFRSF17 270:TNFRSF14 271:NGFR 272:BTLA 273:PDCD1LG2
275:ICOSLG 277:BTN3A1 278:ICOS 279:PDCD1 280:MRC2 281:TLR1 282:TLR2 283:TLR3 284:TLR4 286:TLR6 288:TLR8 289:TLR9
290:TLR10 292:BMPR1A 294:PTGDR2 295:LEPR 296:ART1 297:ART4 298:ATP1B3 299:CLEC4M 301:CLEC10A 303:CLEC4C 304:NRP1
305:LAIR1 306:LAIR2 307a:FCRL1 307b:FCRL2 307c:FCRL3 307d:FCRL4 307e:FCRL5 309:KDR 312:ADGRE2 314:KLRK1 315:PTGFRN
316:IGSF8 317:BST2 318:CDCP1 319:SLAMF7 321:F11R 322:JAM2 324:CDH1 325:CDH2 326:EPCAM 327:SIGLEC6 328:SIGLEC7
329:SIGLEC9 331:FGFR1 332:FGFR2 333:FGFR3 334:FGFR4 335:NCR1 336:NCR2 337:NCR3 338:ABCG2 339:JAG1 340:ERBB2 344:FZD4
349:FZD9 350:FZD10 351:FCAMR 352:SLAMF6 353:SLAMF8 354:TREM1 355:CRTAM 357:TNFRSF18 358:TNFRSF21 360:IL21R 361:EVI2B
362:SDC2 363:S1PR1 364:PI16 365:HAVCR1 366:HAVCR2 367:CLEC4A 368:CLEC4D 369:CLEC7A 370:CLEC9A 371:CLEC12A
""",
    )
)
# CD3 is a complex; its antibodies are also named after one of the chains.
_CHAINS: Final = {"cd3": frozenset({"cd3d", "cd3e", "cd3g"})}
# Letters that make another target of a number (HGNC and the HLDA workshops), so that "CD45-RA" is
# CD45RA and "CD19-A" CD19.
_LETTERS: Final = dict(
    re.findall(
        r"(\S+):(\S+)",
        """
1:abcde 3:deg 8:ab 11:abcd 16:ab 32:abc 42:abcd 49:abcdef 60:abc 62:elp 64:abc 65:s 66:abcdef 75:s 79:ab 85:abcdefghijklm
107:ab 120:ab 121:ab 140:ab 156:abc 158:abcdefghijkz 159:ac 167:ab 172:abg 175:s 179:ab 202:b 203:ac 210:ab 218:ab 235:ab
240:d 300:abcdef 307:abcde
""",
    )
)

_GREEK: Final = str.maketrans("αβγδεζκλμ", "abgdezklm")
_SPELLED: Final = re.compile(
    r"(?<![a-z])(?:alpha|beta|gamma|delta|epsilon|zeta|kappa|lambda)(?![a-z])"
)
_GLUED: Final = re.compile(
    r"(?<![a-z0-9])(?:anti|adt|prot|ab|human|hum|hu|hs|h|a|mouse|mus|ms|mu|m)(?=cd[^a-z0-9]?\d)"
    r"|(?<=[a-z0-9])(?=(?:totalseq|total[a-d]|adt|prot|protein|antibody)(?![e-z]))"
)
_CD: Final = re.compile(
    r"\bcd-?(?P<number>\d+)(?P<letters>[a-z]{0,2}\d?)\b"
    r"(?:-(?P<apart>r[abco]?|[a-z])\b|[-/](?P<partner>ligand|lg|receptor)\b|(?P<more>(?:/(?:[a-h]\d?|\d{2,3})\b)+))?"
)
_MOUSE: Final = re.compile(
    r"\b(?:mouse|murine|mus|mm10|rat|hamster|(?:ms|mu|mmu?|m)(?=-cd))\b|^ms\b"
)
_MOUSE_ALLELE: Final = re.compile(r"cd(?:45|90)\.[12]\b")
_HUMAN: Final = re.compile(r"\b(?:human|hum|hu|hs|homo|hg38|grch38|h(?=-cd))\b")
_ISOTYPE: Final = re.compile(
    r"\b(?:(?:mouse|rat|hamster|rabbit|goat|ms|m|r)-?)ig[gmade]\w*(?:[-/][kl]\b)?|\w*isotyp\w*"
)
_NO_TARGET: Final = re.compile(
    r"\b(?:control|ctrl|ctl|iso|isoig\w*|hashtag\d*|hto\d*|cmo\d*|sampletag\d*|\w*(?:tetra|dextra|penta|multi)mer|car|scfv)\b"
)


@lru_cache(maxsize=4096)
def _read(given: str) -> Name:
    return Name(given)


@dataclass(frozen=True)
class Name:
    """A name of a panel, or the marker that is asked for."""

    given: str

    @cached_property
    def full(self) -> str:
        """Lower-case words of ASCII joined by `-`, or by `/` in a list."""
        text = unicodedata.normalize("NFKC", self.given).lower().translate(_GREEK)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        text = _GLUED.sub(lambda glued: f"{glued[0]}-", _SPELLED.sub(lambda word: word[0][0], text))
        return re.sub(
            r"[^a-z0-9]+", lambda gap: "/" if set(gap[0]) & set("/,&+") else "-", text
        ).strip("-/")

    @cached_property
    def text(self) -> str:
        """The same without the isotype of the antibody itself."""
        return re.sub(r"[-/]{2,}", "-", _ISOTYPE.sub("", self.full)).strip("-/")

    @cached_property
    def targets(self) -> frozenset[str]:
        """The CD numbers of the name, lists written out: `CD66a/c` is CD66a and CD66c."""
        return frozenset(target for found in _CD.finditer(self.text) for target in _targets(found))

    @cached_property
    def is_marker(self) -> bool:
        """Neither an isotype control nor a reagent against something that carries the marker's name."""
        return bool(self.text) and not _NO_TARGET.search(self.text)

    @cached_property
    def is_mouse(self) -> bool:
        """An antibody against the mouse's protein alone."""
        of_mouse = _MOUSE.search(self.text) or _MOUSE_ALLELE.search(self.given.lower())
        return bool(of_mouse) and not _HUMAN.search(self.text)


def positions(names: Sequence[str], marker: str) -> list[int]:
    """Where the marker is: by its exact name, else as a word, else by the gene or CD number of the same target."""
    exact = [i for i, name in enumerate(names) if name == marker]
    if exact:
        return exact
    asked, panel = _read(marker), [_read(name) for name in names]
    of_mouse = sum(name.is_mouse for name in panel) > len(panel) / 2
    within = [
        i for i, name in enumerate(panel) if name.is_marker and (of_mouse or not name.is_mouse)
    ]
    if found := [i for i in within if _is_same(asked, panel[i])]:
        return found
    alike = {i for i in within if _runs_together(asked, panel[i])}
    for means in (_has_word, _has_synonym):
        if found := [i for i in within if means(asked, panel[i])]:
            return [
                *found,
                *sorted(alike.difference(found)),
            ]  # with CD14-1 there, CD141_Thrombomodulin is a question
    return []


def closest_first(names: Sequence[str], marker: str) -> list[str]:
    """The names that hold the marker in any way, those of its number, and the others by likeness."""
    asked = _read(marker)
    numbers = {_number(target) for target in asked.targets}

    def distance(given: str) -> tuple[bool, bool, float]:
        name = _read(given)
        holds = (
            bool(asked.targets & name.targets) or _holds(asked, name) or _has_synonym(asked, name)
        )
        near = any(_number(target) in numbers for target in name.targets)
        return not holds, not near, -difflib.SequenceMatcher(None, asked.full, name.full).ratio()

    return sorted(names, key=distance)


def _is_same(asked: Name, name: Name) -> bool:
    """Nothing but case and separators differs."""
    return bool(asked.full) and asked.full == name.full


def _runs_together(asked: Name, name: Name) -> bool:
    """The name would be the marker if its separators were dropped.

    It is not, but a reader may think so.
    """
    return re.sub(r"[-/]", "", asked.full) == re.sub(r"[-/]", "", name.full)


def _has_word(asked: Name, name: Name) -> bool:
    """The marker is the one target of the name."""
    if (target := _only_target(asked)) is not None:
        return target in name.targets and all(_kin(target, other) for other in name.targets)
    if re.match(r"ig[gmade]", asked.full) and (name.targets or "isotyp" in name.full):
        return False  # it is the isotype of the antibody
    return _holds(asked, name)


def _has_synonym(asked: Name, name: Name) -> bool:
    """The name holds the gene of the CD number, or the CD number of the gene, and no other target."""
    target = _only_target(asked)
    gene = asked.given.upper() if target is None else _GENES.get(target.removeprefix("cd"))
    if name.targets:
        same = _numbers_of(gene) if gene else frozenset()
        if target is not None:
            same |= _CHAINS.get(target, frozenset()) | (
                _read(gene).targets if gene else frozenset()
            )
        return name.targets <= same
    return target is not None and gene is not None and _holds(_read(gene), name)


@lru_cache(maxsize=1024)
def _numbers_of(gene: str) -> frozenset[str]:
    return frozenset(f"cd{number}" for number, symbol in _GENES.items() if symbol == gene)


def _holds(asked: Name, name: Name) -> bool:
    """The marker is among the words of the name, however separated, but digits stay together and apart as they are."""
    return bool(asked.full) and _pattern(asked.full).search(name.text) is not None


@lru_cache(maxsize=1024)
def _pattern(full: str) -> re.Pattern[str]:
    """Words with or without separators, but not in front of what would make another target of them (Fas-L, ICOS ligand)."""
    joined = re.sub(r"(?<=[a-z])[-/]|[-/](?=[a-z])", "", full)  # digits stay apart
    words = re.sub(r"(?<=[a-z0-9])(?=[a-z])|(?<=[a-z])(?=[0-9])", "[-/]?", joined)
    return re.compile(rf"\b{words}\b(?![-/](?:[a-z]|ligand|lg|receptor)\b)")


def _only_target(asked: Name) -> str | None:
    """The CD number, where the marker is one and nothing else."""
    found = _CD.fullmatch(asked.full)
    return next(iter(asked.targets)) if found and len(asked.targets) == 1 else None


def _targets(found: re.Match[str]) -> list[str]:
    """The targets that a CD number with what follows it stands for."""
    number, letters = found["number"], found["letters"]
    apart, partner, more = found["apart"] or "", found["partner"] or "", found["more"] or ""
    if partner or (not letters and (apart in ("l", "r") or apart in _LETTERS.get(number, ""))):
        letters += partner[:1] or apart
    elif not letters and number == "45" and apart.startswith("r"):
        letters = apart
    parts = more.strip("/").split("/") if more else []
    return [
        f"cd{number}{letters}",
        *(f"cd{part}" if part.isdigit() else f"cd{number}{part}" for part in parts),
    ]


def _number(target: str) -> str:
    return re.match(r"cd\d+", target)[0]  # type: ignore[index]  # a target begins so


def _kin(asked: str, other: str) -> bool:
    """The same target: by another number, or once more or less exact (CD8 and CD8A).

    CD45RA is not CD45, nor CD40L CD40.
    """
    gene = _GENES.get(asked.removeprefix("cd"))
    if gene is not None and other in _numbers_of(gene):
        return True
    short, long = sorted((asked, other), key=len)
    added = long.removeprefix(short)
    narrower = long == other and added.startswith(("l", "r"))
    return long.startswith(short) and not added[:1].isdigit() and not narrower
