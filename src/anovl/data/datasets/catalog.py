"""Every data set by name: title, terms, address, classes. Nothing is ever downloaded."""

from __future__ import annotations

from anovl.data.datasets.manifest import manifest
from anovl.data.datasets.own import folder, synthetic
from anovl.data.datasets.published import classes_of, dagm, ksdd, ksdd2, trees, visa
from anovl.data.datasets.scan import TEXTURES, DatasetInfo, KnownClass
from anovl.data.datasets.tree import Tree

_NC = "CC BY-NC-SA 4.0"
_VALIDATION = "the good pictures in validation/good are not used"
_MVTEC_SHAPE = "CLASS/test/{good,KIND}/000.png, CLASS/ground_truth/KIND/000_mask.png, CLASS/train/good/000.png"


def _classes(*names: str, **words: str) -> tuple[KnownClass, ...]:
    """Classes whose words are their names with spaces, or what is given."""
    return tuple(
        KnownClass(name, words.get(name, name.replace("_", " ")), "texture" if name in TEXTURES else "object") for name in names
    )


def _surface(name: str, words: str) -> KnownClass:
    return KnownClass(name, words, "texture")


DATASETS: dict[str, DatasetInfo] = {
    "mvtec": DatasetInfo(
        title="MVTec AD",
        licence=_NC,
        address="https://www.mvtec.com/research-teaching/datasets/mvtec-ad",
        paper="Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, doi 10.1007/s11263-020-01400-4",
        shape=_MVTEC_SHAPE,
        layout=trees(Tree()),
        classes=_classes(
            *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw"),
            *("tile", "toothbrush", "transistor", "wood", "zipper"),
        ),
        signs=("{}/test",),
    ),
    "visa": DatasetInfo(
        title="VisA",
        licence="CC BY 4.0",
        address="https://github.com/amazon-science/spot-diff",
        paper="Zou et al., SPot-the-Difference Self-Supervised Pre-training, ECCV 2022, arXiv 2207.14315",
        shape=(
            "CLASS/Data/Images/{Normal,Anomaly}/000.JPG, CLASS/Data/Masks/Anomaly/000.png, split_csv/1cls.csv; "
            "or the layout of the authors' prepare_data.py, CLASS/test/{good,bad}, CLASS/ground_truth/bad"
        ),
        layout=visa,
        # Prompts say the folders' names, as those of the published figures do; only macaroni is without its number.
        classes=_classes(
            *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
            *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
            macaroni1="macaroni",
            macaroni2="macaroni",
        ),
        signs=("{}/Data/Images", "{}/test", "1cls/{}/test"),
    ),
    "btad": DatasetInfo(
        title="beanTech Anomaly Detection (BTAD)",
        licence="CC BY-SA 4.0",
        address="https://github.com/pankajmishra000/VT-ADL",
        paper="Mishra et al., VT-ADL, ISIE 2021, arXiv 2104.10036",
        shape="CLASS/test/{ok,ko}/0000.bmp, CLASS/ground_truth/ko/0000.png, CLASS/train/ok/0000.bmp",
        layout=trees(Tree(train="train/ok")),
        classes=tuple(KnownClass(name, "industrial product", "object") for name in ("01", "02", "03")),
        signs=("{}/test/ok", "{}/test/ko"),
        notes=("its authors call the classes products 1 to 3 and do not say what they are: prompts say 'industrial product'",),
    ),
    "mpdd": DatasetInfo(
        title="Metal Parts Defect Detection (MPDD)",
        licence=_NC,
        address="https://github.com/stepanje/MPDD",
        paper="Jezek et al., Deep learning-based defect detection of metal parts, ICUMT 2021",
        shape=_MVTEC_SHAPE,
        layout=trees(Tree()),
        classes=_classes(
            *("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"),
            bracket_black="black bracket",
            bracket_brown="brown bracket",
            bracket_white="white bracket",
        ),
        signs=("{}/test",),
    ),
    "mvtec2": DatasetInfo(
        title="MVTec AD 2",
        licence=_NC,
        address="https://www.mvtec.com/research-teaching/datasets/mvtec-ad-2",
        paper="Heckler-Kram et al., The MVTec AD 2 Dataset, arXiv 2503.21622",
        shape=(
            "CLASS/test_public/{good,bad}/000_regular.png, CLASS/test_public/ground_truth/bad/000_regular_mask.png, "
            "CLASS/train/good/000_regular.png"
        ),
        layout=trees(Tree(test="test_public", masks="test_public/ground_truth")),
        classes=_classes("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts"),
        signs=("{}/test_public",),
        notes=("test_public only: the masks of test_private and test_private_mixed are not published", _VALIDATION),
    ),
    "loco": DatasetInfo(
        title="MVTec LOCO AD",
        licence=_NC,
        address="https://www.mvtec.com/research-teaching/datasets/mvtec-loco-ad",
        paper="Bergmann et al., Beyond Dents and Scratches, IJCV 2022, doi 10.1007/s11263-022-01578-9",
        shape=(
            "CLASS/test/{good,logical_anomalies,structural_anomalies}/000.png, CLASS/ground_truth/KIND/000/000.png, "
            "CLASS/train/good/000.png"
        ),
        layout=trees(Tree()),
        classes=_classes("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"),
        signs=("{}/test",),
        notes=(
            "every pixel of a mask counts: the saturation thresholds of defects_config.json, part of sPRO, are left out",
            _VALIDATION,
        ),
    ),
    "dagm": DatasetInfo(
        title="DAGM 2007",
        licence="publicly available, no licence named",
        address="https://hci.iwr.uni-heidelberg.de/content/weakly-supervised-learning-industrial-optical-inspection",
        paper="Wieler and Hahn, Weakly Supervised Learning for Industrial Optical Inspection, DAGM 2007",
        shape="CLASS/{Test,Train}/0001.PNG, CLASS/{Test,Train}/Label/0001_label.PNG for the defective ones",
        layout=classes_of(dagm),
        classes=tuple(_surface(f"Class{number}", "textured surface") for number in range(1, 11)),
        signs=("{}/Test", "{}/Train"),
        notes=("masks are coarse ellipses around the defects, not their outlines: pixel figures are rough",),
    ),
    "ksdd": DatasetInfo(
        title="KolektorSDD",
        licence=_NC,
        address="https://www.vicos.si/resources/kolektorsdd/",
        paper="Tabernik et al., Segmentation-based deep-learning approach for surface-defect detection, JIM 2020",
        shape="kos01/Part0.jpg, kos01/Part0_label.bmp",
        layout=ksdd,
        classes=(_surface("ksdd", "electrical commutator"),),
        signs=("kos[0-9]*",),
        notes=("all pictures are tested: the data set has folds for a cross-validation and no test set of its own",),
    ),
    "ksdd2": DatasetInfo(
        title="KolektorSDD2",
        licence=_NC,
        address="https://www.vicos.si/resources/kolektorsdd2/",
        paper="Bozic et al., Mixed supervision for surface-defect detection, Computers in Industry 2021, arXiv 2104.06064",
        shape="test/20000.png, test/20000_GT.png, train/10000.png, train/10000_GT.png",
        layout=ksdd2,
        classes=(_surface("ksdd2", "production item"),),
        signs=("test/*_GT.*", "train/*_GT.*"),
    ),
    "folder": DatasetInfo(
        title="pictures of your own",
        licence="yours",
        address="",
        paper="",
        shape=(
            f"one category or a folder of them: {_MVTEC_SHAPE}; or good/000.png (normal, ok) beside KIND/000.png, masks in "
            "ground_truth/KIND or masks/KIND; or pictures without labels"
        ),
        layout=folder,
    ),
    "manifest": DatasetInfo(
        title="a list of pictures",
        licence="yours",
        address="",
        paper="",
        shape=(
            "CSV or JSON lines with image_path and, where known, category, class_name, label (0 or 1), defect, "
            "mask_path (several with ; between, or a JSON list), split (test or train)"
        ),
        layout=manifest,
    ),
    "synthetic": DatasetInfo(
        title="the drawn world of anovl synth",
        licence="yours",
        address="",
        paper="",
        shape=f"{_MVTEC_SHAPE}, dataset.json",
        layout=synthetic,
        signs=("dataset.json",),
    ),
}
