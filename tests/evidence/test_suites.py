"""The suites' report says what the measurements say, and whence they are."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import gaussian_mixture, lavps_mixture
from benchmarks import run as suite_run
from benchmarks.comparison import photos
from benchmarks.comparison.report import _evaluations, redraw_report, write_report
from benchmarks.comparison.suites import BUDGETS, SUITES, points_of
from benchmarks.reporting import record
from lavps_jax.config.settings import load_preset
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.io.weights import read_card
from lavps_jax.runs.build import build_sampler
from lavps_jax.runs.pictures import save_png

ROOT = Path(__file__).parents[2]
SCORES = ("psnr", "ssim", "lpips_vgg", "psnr_of_mean", "residual_inside_99", "pixel_std",
          "coverage_50")  # fmt: skip


TRAINED = {"palette": 10, "invfussion": 20, "pivot": 3000, "one_step": 40}
MADE = {"trained": TRAINED, "took": 90.0}


def entry(task, method, budget, lpips, seconds):
    """As benchmarks.run records it; lpips has one number for each image."""
    per_image = [{"name": f"i{k}.png", "lpips_alex": one} for k, one in enumerate(lpips)]
    mean = dict.fromkeys(SCORES, 0.5) | {
        "lpips_alex": float(np.mean(lpips)), "seconds_per_image": 2 * seconds,
        "network_calls": 20, "vjps": 6, "memory_bytes": 5e6,
    }  # fmt: skip
    return {
        "task": task, "method": method, "budget": budget, "folder": method, "sampler": "one",
        "images": len(lpips), "particles": 2, "mean": mean, "per_image": per_image,
        "baseline": {"psnr": 8.0, "lpips_alex": 0.6},
        "of_sets": {"frechet_alexnet": 1.0, "kernel_alexnet": 0.1}, **MADE,
    }  # fmt: skip


def write(work, results, commit="abc"):
    folder = work / results["task"].replace(" ", "_")
    pictures = folder / results["folder"] / "images"
    for one in results.get("per_image", []):
        place = pictures / one["name"].replace(".", "_")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("reference", "observation", "one_sample_00"):
            save_png(place / f"{name}.png", np.zeros((8, 8, 1)))
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"cores": 2, "processor": "P", "devices": "1 x cpu", "jax": "0"}
    content = {"command": "C", "commit": commit, "date": "D", "machine": machine}
    (folder / f"{results['folder']}.json").write_text(json.dumps(content | {"results": results}))


@pytest.fixture
def work(tmp_path):
    work = tmp_path / "work"
    write(work, entry("motion blur", "MGDM", "n = 9", [0.10, 0.20, 0.30], 8.0))
    write(work, entry("motion blur", "LAVPS", "K = 1", [0.11, 0.19, 0.31], 1.0))
    write(work, entry("motion blur", "DPS", "", [0.20, 0.30, 0.41], 0.5))
    refused = {"task": "motion blur", "method": "DDRM", "budget": "", "folder": "DDRM"}
    write(work, refused | MADE | {"refused": "operator: got Blur; use DPS"})
    return work


def test_the_report_says_what_was_measured(work, tmp_path):
    write_report("images", work, tmp_path / "out")
    text = (tmp_path / "out" / "images.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    # As the suite has them, not the best first; 20 calls and 6 derivatives are of two samples.
    scores = [row for row in rows if len(row) == 15][2:]
    assert [row[0] for row in scores] == ["| LAVPS, K = 1", "| MGDM, n = 9", "| DPS"]
    assert scores[0][1].startswith("0.203 [") and scores[0][12] == "10, 3"
    assert scores[2][2].startswith("+0.103 [+0.0")
    assert "No ranking: 3 images" in text and "best" not in text
    assert "What was tuned on what" in text
    assert "DDRM: operator: got Blur; use DPS" in text and "commit abc" in text
    # DPS alone takes no more than half of MGDM's eight seconds but for LAVPS.
    assert "least LPIPS in at most 4 s: LAVPS, K = 1; DPS. Slower: MGDM." in text
    assert "3,000 (EPS)" in text and "All of it took 6 minutes" in text
    stored = json.loads((tmp_path / "out" / "images.json").read_text())
    assert len(stored["tasks"]["motion blur"]) == 4 and stored["commit"] == "abc"
    page = (tmp_path / "out" / "images.html").read_text()
    assert page.count("<svg") == 2 and 'src="data:image/png;base64,' in page
    assert not any(word in page for word in ('src="http', 'href="http', "<script", "@import"))


def test_a_report_is_drawn_again_from_its_json(work, tmp_path):
    out = tmp_path / "out"
    write_report("images", work, out)
    made = {file.name: file.read_bytes() for file in out.iterdir()}
    for name in ("images.md", "images.html", "images_time.svg"):
        (out / name).unlink()
    suite_run.main(["--suite", "images", "--redraw", "--out", str(out), "--work", "none"])
    assert {file.name: file.read_bytes() for file in out.iterdir()} == made
    with pytest.raises(UserError, match="measure first, without --redraw: it holds no robustness"):
        redraw_report("robustness", out)


def test_equal_budgets_are_compared_on_the_second_half(tmp_path):
    """A setting that is good on the first half by chance is reported as it is on the second."""
    rng, work = np.random.default_rng(0), tmp_path / "work"
    image = rng.uniform(0.05, 0.15, 64)
    lucky = np.r_[image[:32] - 0.04, image[32:] + 0.03 + rng.normal(0, 0.001, 32)]
    for method, budget, lpips, seconds in (
        ("LAVPS", "K = 1", image + 0.01, 1.0),
        ("MGDM", "n = 9", image + rng.normal(0.01, 0.001, 64), 1.0),
        ("DPS", "steady", image, 1.0),
        ("DPS", "lucky", lucky, 1.0),
        ("PiGDM", "", image + 0.1, 1.0),
    ):
        one = entry("motion blur", method, budget, list(lpips), seconds)
        write(work, one | {"folder": f"{method}_{budget}", "of_sets": {}})
    write_report("budgets", work, tmp_path / "out")
    text = (tmp_path / "out" / "budgets.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| 100 | ")]
    cells = {row[1]: row[2] for row in rows}
    assert list(cells) == ["LAVPS", "MGDM", "DPS", "PiGDM"]
    # It won the first half; on the second others are better, and none is called worse.
    assert cells["DPS"].startswith(f"**{lucky[32:].mean():.3f} [")
    assert "(better)" in cells["LAVPS"] and "(better)" in cells["MGDM"]
    assert "×" in cells["PiGDM"] and "No ranking" not in text and "Fréchet" not in text


def test_a_derivative_counts_as_two_evaluations():
    assert _evaluations(entry("t", "m", "", [0.1], 1.0)) == (20 + 2 * 6) / 2


def test_robustness_has_a_figure_of_its_own(work, tmp_path):
    write_report("robustness", work, tmp_path / "out")
    assert "gaussian" not in (tmp_path / "out" / "robustness.svg").read_text()
    assert "robustness.svg" in (tmp_path / "out" / "robustness.md").read_text()


@pytest.mark.parametrize("suite", ["photos", "photos_unseen"])
def test_photographs_have_reports_of_their_own(suite, tmp_path):
    work, task = tmp_path / "work", next(iter(SUITES[suite].tasks))
    for method in ("MGDM", "DiffPIR"):
        write(work, entry(task, method, "n = 30", [0.2, 0.3, 0.4], 1.0) | {"side": 128})
    write_report(suite, work, tmp_path / "out")
    text = (tmp_path / "out" / f"{suite}.md").read_text()
    assert "pixels of 3 free photographs, reduced to 128 x 128" in text and "clothes" not in text
    figure = f"{suite}_time.svg" if suite == "photos" else f"{suite}.svg"
    assert figure in text and (tmp_path / "out" / figure).is_file()


def test_one_network_of_photographs_was_trained_on_what_is_called_seen_alone():
    trained = load_preset("configs/photo_amortized.py").task.operator
    assert all(trained.includes(one) for one in photos.SEEN.values())
    assert not any(trained.includes(one) for one in photos.UNSEEN.values())


def test_photographs_on_which_settings_were_chosen_are_left_out(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (18, 256, 300, 3), np.uint8)
    for index, one in enumerate(pixels):
        folder = tmp_path / ("kodak" if index == 17 else "test")
        folder.mkdir(exist_ok=True)
        Image.fromarray(one).save(folder / f"{index:02d}.png")
    data = photos.prepare_crops(tmp_path, tmp_path / "crops", 128)
    source = data.open()
    assert [source.name(k) for k in range(len(source))] == ["kodak-17.png", "test-16.png"]
    mean = pixels[[17, 16], :, 22:278].reshape(2, 128, 2, 128, 2, 3).mean((2, 4))
    np.testing.assert_allclose(np.stack([source[0], source[1]]), mean, atol=0.51)
    with pytest.raises(UserError, match="photographs: got None; give a folder of test and kodak"):
        suite_run.main(["--suite", "photos", "--work", str(tmp_path)])
    with pytest.raises(UserError, match="photographs: got x; leave it out"):
        suite_run.main(["--suite", "images", "--photographs", "x", "--work", str(tmp_path)])


def test_results_of_two_commits_are_refused(work, tmp_path):
    write(work, entry("motion blur", "DPS", "", [0.2, 0.3, 0.4], 0.5), commit="other")
    with pytest.raises(UserError, match="of commits abc, other; delete the older ones"):
        write_report("images", work, tmp_path / "out")
    with pytest.raises(UserError, match="holds no results"):
        write_report("images", tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (("images", "--tasks", "sharpening"), "tasks: got sharpening; use some of inpainting"),
        (("images", "--methods", "MAGIC"), "methods: got MAGIC; use some of DAPS"),
        (("gmm", "--methods", "MAGIC"), "methods: got MAGIC; use some of exact posterior"),
    ],
)
def test_what_does_not_exist_is_named(tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        suite_run.main(["--work", str(tmp_path), "--suite", *flags])


def test_a_suite_measures_goes_on_and_keeps_to_one_commit(tmp_path, capsys, monkeypatch):
    flags = ["--suite", "images", "--quick", "--tasks", "motion blur",
             "--methods", "DING", "DiffPIR", "--work", str(tmp_path)]  # fmt: skip
    suite_run.main(flags)
    told = capsys.readouterr().out
    assert "motion blur: DiffPIR, n = 25: 0." in told and "DING, n = 25: operator: got Blur" in told
    assert "DiffPIR, n = 25" in (tmp_path / "images.md").read_text()
    monkeypatch.setattr(suite_run, "measure", None)  # Nothing is left to do.
    suite_run.main(flags)
    monkeypatch.setattr(record, "current_commit", lambda: "another")
    suite_run.main(flags)
    flags[flags.index("DING")] = "DPS"
    with pytest.raises(UserError, match="this is another; delete the folder"):
        suite_run.main(flags)


def test_mixtures_are_kept_apart_from_their_report(tmp_path, monkeypatch):
    """So that the report of another commit, as a clone has it, is replaced."""
    small = partial(gaussian_mixture.Config, dims=((8, 1),), num_problems=1, num_samples=20)
    monkeypatch.setattr(gaussian_mixture, "Config", small)
    out = tmp_path / "out"
    out.mkdir()
    older = {"command": "python", "commit": "older", "machine": {}, "results": {}}
    (out / "known_posteriors.json").write_text(json.dumps(older))
    flags = ["--suite", "gmm", "--methods", "prior samples", "--work", str(tmp_path / "work")]
    suite_run.main([*flags, "--out", str(out)])
    kept = tmp_path / "work" / "known_posteriors.json"
    assert (out / "known_posteriors.json").read_bytes() == kept.read_bytes()
    assert "| prior samples |" in (out / "known_posteriors.md").read_text()
    assert (out / "known_posteriors.html").is_file() and (out / "known_posteriors.svg").is_file()
    assert not (out / "known_posteriors_lavps.md").exists()  # It has no such row.


def test_lavps_has_a_table_of_its_own(tmp_path, monkeypatch):
    small = partial(lavps_mixture.Config, dims=((8, 1),), num_problems=1, num_samples=20)
    monkeypatch.setattr(lavps_mixture, "Config", small)
    monkeypatch.setattr(lavps_mixture, "NUM_TRAIN_STEPS", 1)
    flags = ["--suite", "gmm", "--methods", "LAVPS K=0", "--work", str(tmp_path / "work")]
    suite_run.main([*flags, "--out", str(tmp_path)])
    text = (tmp_path / "known_posteriors_lavps.md").read_text()
    assert text.startswith("# LAVPS against") and "| LAVPS K=0 | 98 | 0 | 97 |" in text
    assert "<title>LAVPS against" in (tmp_path / "known_posteriors_lavps.html").read_text()
    with pytest.raises(UserError, match="methods: got LAVPS K=0; leave --quick out"):
        suite_run.main([*flags, "--quick"])
    assert not (tmp_path / "known_posteriors.md").exists()


def test_the_file_of_one_table_is_not_that_of_the_other(tmp_path):
    small = {"dims": ((2, 1),), "num_problems": 1, "num_samples": 20,
             "methods": ("MGDM K=1, lr 0.1",), "out": str(tmp_path / "found.json")}  # fmt: skip
    lavps_mixture.main(lavps_mixture.Config(**small))
    lavps_mixture.TABLE.check(lavps_mixture.Config(**small))
    with pytest.raises(UserError, match="out: got .*found.json, of another table or settings; "):
        gaussian_mixture.TABLE.check(gaussian_mixture.Config(**small))


def test_reports_do_not_count_as_changes_of_the_code(tmp_path):
    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit():
        """As a program tells that begins now."""
        spec = importlib.util.spec_from_file_location("record_of_a_copy", code)
        assert spec is not None and spec.loader is not None
        begun = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(begun)
        return begun.current_commit()

    code = tmp_path / "benchmarks/reporting/record.py"
    report = tmp_path / "docs" / "results" / "a.md"
    for file in (code, report):
        file.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "benchmarks/reporting/record.py", code)
    report.write_text("1")
    run("git", "init", "-q")
    run("git", "add", "-A")
    run("git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    clean = commit()
    assert clean == run("git", "rev-parse", "--short", "HEAD")
    report.write_text("2")
    assert commit() == clean
    code.write_text(code.read_text() + "# Changed.\n")
    changed = commit()
    assert changed.startswith(f"{clean}-dirty-")
    code.write_text(code.read_text() + "# Changed again.\n")
    assert commit() not in (changed, clean)


def test_every_point_has_a_folder_of_its_own():
    for name, suite in SUITES.items():
        for task in suite.tasks:
            folders = [point.folder for point in points_of(name, task, search=True)]
            assert len(set(folders)) == len(folders) >= 3


def test_budgets_are_kept():
    """And every method has as many settings as the others, the first of them its own default."""
    for task, operator in SUITES["budgets"].tasks.items():
        costs = {}
        for point in points_of("budgets", task, search=True):
            sampler = build_sampler(
                point.sampler, Schedule(), (32, 32, 1), operator=operator, sigma_y=0.05
            )
            cost = sampler.cost(Schedule())
            evaluations = cost.network_calls + 2 * cost.vjps
            costs.setdefault(point.method, []).append(evaluations)
        assert all(max(one) <= BUDGETS[-1] for one in costs.values())
        for method, found in costs.items():
            small = [one for one in found if one <= BUDGETS[0]]
            # LAVPS is not: its network was trained for 100 steps.
            assert (len(small), len(found)) == ((0, 3) if method == "LAVPS" else (3, 6))
        assert {point.name for point in points_of("budgets", task)} == {
            point.name for point in points_of("budgets", task, search=True)[::3]
        }


def test_every_network_of_a_point_is_there():
    folders = set()
    for name, suite in SUITES.items():
        for task in suite.tasks:
            for sampler in (point.sampler for point in points_of(name, task)):
                given = (getattr(sampler, f, "") for f in ("amortized", "denoiser", "generator"))
                folders |= {folder for folder in given if folder}
    assert len(folders) == 8
    for folder in folders:
        assert read_card(folder)["step"] > 0
