import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from app.chart import LETTER, chart
from igds.expectation import Expectation, Spread
from igds.study import REAL, UNGUIDED, beta_arm
from igds.verdict import Verdict

BETAS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def point(x: float, y: float) -> dict[str, Spread]:
    return {"held_out_contextual": Spread(x, 0.05), "held_out_prototype": Spread(y, 0.04)}


def expected(label: str = "Circle") -> Expectation:
    """As studies look: small β crowd together, large ones lie far apart."""
    arms = {beta_arm(beta): point(1.0 + beta / 12, 2.2 - beta**2 / 200) for beta in BETAS}
    arms |= {UNGUIDED: point(1.1, 1.9), REAL: point(1.15, 2.1)}
    return Expectation(label, 10, 5, beta_arm(0), (2.0,), {}, BETAS, arms, {})


def verdict(x: float, y: float) -> Verdict:
    return Verdict(1.0, 0.1, 0.1, 2.0, 1.0, y, x)


RUN = {"unguided": verdict(1.1, 1.95), "prototype": verdict(0.9, 2.25), "contextual": verdict(1.3, 2.2)}


def drawing(html: str) -> ElementTree.Element:
    return next(svg for svg in ElementTree.fromstring(html).iter("svg") if svg.get("role") == "img")


def of_class(svg: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [node for node in svg.iter() if node.get("class") == name]


def test_the_run_s_columns_stand_where_their_figures_are():
    svg = drawing(chart(expected(), RUN))
    circle, square = of_class(svg, "mark unguided")[0], of_class(svg, "mark prototype")[0]
    triangle = re.match(r"M([\d.]+) ([\d.]+)", of_class(svg, "mark contextual")[0].get("d"))
    assert float(square.get("x")) < float(circle.get("cx")) < float(triangle[1]), "further right, the more varied"
    assert float(square.get("y")) < float(triangle[2]) < float(circle.get("cy")), "further up, the surer"


def test_every_studied_beta_has_a_point_and_no_two_labels_overlap():
    svg = drawing(chart(expected(), RUN))
    assert len(of_class(svg, "dot")) == len(BETAS) == len(of_class(svg, "path")[0].get("points").split())
    labels = of_class(svg, "beta")
    assert {"β = 0", "β = 10", "5"} <= {label.text for label in labels}
    boxes = []
    for label in labels:
        width = LETTER * len(label.text)
        left = float(label.get("x")) - {"start": 0, "middle": width / 2, "end": width}[label.get("text-anchor")]
        boxes.append((left, left + width, float(label.get("y"))))
    for a, b in itertools.combinations(boxes, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or abs(a[2] - b[2]) >= 17


def test_nothing_leaves_the_drawing_however_far_the_run_is_from_the_study():
    far = {"unguided": verdict(0.0, -9.0), "prototype": verdict(0.1, 2.3), "contextual": verdict(4.0, 2.3)}
    svg = drawing(chart(expected(), far))
    _, _, width, height = map(float, svg.get("viewBox").split())
    for node in svg.iter():
        for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(node.get(name, 0)) <= limit


def test_the_name_of_a_class_is_text_and_never_markup():
    root = ElementTree.fromstring(chart(expected("Tri <angle> & 'more'"), RUN))
    assert "angle" not in {node.tag for node in root.iter()}
    assert "Tri <angle> & 'more', IPC 10" in "".join(root.itertext())


def test_a_studied_seed_alone_has_no_bars():
    one = expected()
    arms = {
        name: {measure: Spread(spread.mean, float("nan")) for measure, spread in measures.items()}
        for name, measures in one.arms.items()
    }
    assert "nan" not in chart(replace(one, arms=arms, seeds=1), RUN)


@pytest.mark.parametrize(
    ("study", "run"),
    [
        (expected(), {"unguided": verdict(float("nan"), float("nan"))}),
        (replace(expected(), other_settings={"reference": "class"}), RUN),
        (replace(expected(), arms={}), RUN),
    ],
    ids=["no held-out estimator", "another reference", "no figures"],
)
def test_what_cannot_be_compared_is_not_drawn(study, run):
    assert chart(study, run) == ""
