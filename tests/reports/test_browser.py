"""The page in a real browser: headless Chromium runs its script, lays it out and prints it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from t5x_ext.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH (apt-get install chromium)"),
]

HOSTILE = "</title></script><script>document.title='owned'</script><img src=x onerror=alert(1)>"

# Runs after the page's own script, points at a mark and chooses, and writes down what it sees.
PROBE = """
const seen = {};
const violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.blockedURI));
const visible = (selector) => [...document.querySelectorAll(selector)]
  .filter((each) => !each.closest("[hidden]"));
const choose = (control, value) => {
  if (control.type === "radio") control.checked = true;
  else control.value = value;
  control.dispatchEvent(new Event("change"));
};
const panels = () => visible(".panel").map((p) => [p.dataset.setting, p.dataset.category]);

seen.title = document.title;
seen.controls = visible(".controls").length;
seen.start = panels();
const mark = visible(".mark")[2];
mark.dispatchEvent(new Event("pointerenter"));
const tip = document.getElementById("tip");
seen.tip = tip.hidden ? null : [...tip.children].map((line) => line.textContent);
const box = tip.getBoundingClientRect();
seen.tipInside = box.left >= 0 && box.right <= innerWidth && box.width > 0;
mark.dispatchEvent(new Event("pointerleave"));
seen.tipAfter = tip.hidden;
seen.settings = [...document.querySelectorAll("[name=setting]")].map((each) => each.value);
choose(document.querySelector("[name=setting][value=MTL]"));
seen.mtl = panels();
const captions = visible("caption").map((each) => each.textContent);
seen.stlTables = captions.filter((text) => text.startsWith("STL")).length;
const select = document.querySelector("[name=category]");
seen.categories = [...select.options].map((each) => each.value);
choose(select, seen.categories[1]);
seen.category = panels();
document.querySelector("details").open = true;
seen.rows = [...new Set(visible("tr[data-category]").map((row) => row.dataset.category))];
seen.images = document.images.length;
seen.width = [document.documentElement.scrollWidth, innerWidth];
seen.violations = violations;
const out = document.createElement("pre");
out.id = "probe";
out.textContent = JSON.stringify(seen);
document.body.append(out);
"""


def chromium(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Loads the page with flags; returns its output and the browser's log."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        f"--user-data-dir={page.parent / 'profile'}",
        *flags,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def probe(page: Path, width: int) -> dict:
    """What PROBE saw in a window of this width; the page's policy has to let PROBE run too."""
    text = page.read_text()
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    assert text.count("script-src 'sha256-") == 1
    text = text.replace("script-src 'sha256-", f"script-src 'sha256-{digest}' 'sha256-")
    probed = page.with_name(f"probed{width}.html")
    probed.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    run = chromium(probed, f"--window-size={width},900", "--dump-dom")
    assert not [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, flags=re.DOTALL)
    return json.loads(html.unescape(found.group(1)))


def make_hostile(root: Path) -> None:
    """Puts markup into every text of a study that reaches its page."""
    written = json.dumps(HOSTILE)[1:-1]
    for path in root.rglob("*.json*"):
        path.write_text(path.read_text().replace("task0_made_up", f"{written}0"))
    path = root / "study.json"
    study = json.loads(path.read_text())
    category = study["tasks"][0]["category"]
    study["name"] = study["split_policy"] = HOSTILE
    study["arms"][0]["label"] = HOSTILE
    study["arms"][0]["prompt"] = study["arms"][0]["initial"] = HOSTILE
    study["initials"] = {HOSTILE: {"label": HOSTILE, "train_secs": 90.0}}
    for task in study["tasks"]:
        if task["category"] == category:
            task["category"] = f'"{HOSTILE}'
    path.write_text(json.dumps(study))
    for path in root.glob("cells/*/predictions.jsonl"):
        texts = {"prediction": HOSTILE, "inputs": HOSTILE, "references": [HOSTILE], "id": HOSTILE}
        rows = [json.loads(line) | texts for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def page(study_dir) -> Path:
    """The page of a study with hostile texts."""
    make_hostile(study_dir)
    write_report(study_dir)
    return study_dir / "report" / "index.html"


@pytest.mark.parametrize("width", [1280, 500])
def test_values_and_choices(page, width):
    seen = probe(page, width)
    assert seen["start"] == [["STL", ""], ["MTL", ""]]
    assert seen["controls"] == 1
    assert seen["tip"][:2] == [HOSTILE, "ROUGE-L 60.00 [54.67, 65.67]"]
    assert seen["tip"][2] == "100 labels per task, 50% of the data"
    assert seen["tipInside"] and seen["tipAfter"]
    assert seen["settings"] == ["", "STL", "MTL"]
    assert (seen["mtl"], seen["stlTables"]) == ([["MTL", ""]], 0)
    assert seen["categories"] == ["", f'"{HOSTILE}', "Data to Text", "Title Generation"]
    assert seen["category"] == [["MTL", f'"{HOSTILE}']]
    assert seen["rows"] == [f'"{HOSTILE}']
    assert seen["title"] == f"Sample efficiency: {HOSTILE}"
    assert seen["images"] == 2  # the figures; none came out of a text
    assert seen["violations"] == []
    assert seen["width"][0] <= seen["width"][1]


def test_page_is_drawn_without_its_script(page):
    """With scripts forbidden the figure and every table of all tasks are still there."""
    text = page.read_text()
    still = page.with_name("still.html")
    still.write_text(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    chromium(still, "--window-size=1280,1600", f"--screenshot={page.with_name('still.png')}")
    chromium(page, "--window-size=1280,1600", f"--screenshot={page.with_name('live.png')}")
    still_ink, live_ink = (ink(page.with_name(name)) for name in ("still.png", "live.png"))
    assert still_ink.shape == live_ink.shape == (1600, 1280)
    # The script adds the row of controls, nothing else: the page is as full without it.
    assert 0.9 < still_ink.mean() / live_ink.mean() < 1.1
    assert live_ink.mean() > 0.02


def ink(path: Path) -> np.ndarray:
    """Where a picture is not white: [height, width]."""
    from matplotlib.image import imread

    return (imread(path)[:, :, :3] < 0.9).any(axis=2)


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="no pdftotext (poppler-utils)")
def test_paper_has_every_table_and_no_controls(page):
    printed = page.with_name("page.pdf")
    chromium(page, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    text = subprocess.run(
        ["pdftotext", printed, "-"], capture_output=True, text=True, check=True
    ).stdout
    text = " ".join(text.split())
    assert "Both" not in text and "All tasks" not in text
    captions = re.findall(r"<caption>(.*?)</caption>", page.read_text())
    assert len(captions) == 13
    for caption in captions:
        assert html.unescape(caption).replace(HOSTILE, "").split("“")[0].strip() in text
    assert "Scores by task" in text and "task5_made_up" in text  # folded on the screen
