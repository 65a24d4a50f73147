"""Results folders made up for tests, in the format of the store."""

import json
from pathlib import Path

import numpy as np

from invbench.store import Results, Store, key_of, load

POINTS = np.concatenate([[0], np.unique(np.geomspace(1, 300, 30).round())])


class Folder:
    """Builds a results folder cell by cell, in the format of the store."""

    def __init__(
        self, path: Path, instances: int = 8, side: int = 8, truth: np.ndarray | None = None
    ) -> None:
        self.store = Store(path)
        self.order = 0
        self.keys = []
        rng = np.random.default_rng(1)
        self.truth = rng.random((instances, 3, side, side)).astype(np.float32) if truth is None else truth
        self.store.arrays("truth-photos", lambda: {"truth": self.truth})

    def add(
        self,
        solver="adam",
        layer="pool1",
        *,
        trial="preimage",
        ranked_by="mse",
        status="done",
        level=0.1,
        rate=1.0,
        pace=0.002,
        seed=0,
        reason="",
        traceback="",
        overrides=False,
        truth=True,
        diverged=(),
        parameters="",
        variant="default",
        names=None,
        tuning=None,
        **labels,
    ):
        key = key_of([trial, layer, solver, parameters, variant, seed, labels])
        count = len(self.truth)
        names = names or [f"photo-{index}" for index in range(count)]
        labels = {
            "cell": key,
            "study": "quick",
            "trial": trial,
            "trial_parameters": f"layer={layer}",
            "images": "bundled",
            "network": "lenet",
            "layer": layer,
            "start": "noise",
            "priors": "tv=1",
            "solver": solver,
            "parameters": parameters,
            "variant": variant,
            "oracle": "",
            "seed": seed,
            "budget": "iterations=300",
            "device": "cpu",
            "threads": 1,
            "version": "0.1.0",
            "cell_status": status,
            "ranked_by": ranked_by,
            "peak_memory": None,
            "prepare_seconds": 0.0,
        } | labels
        record = {
            "key": key,
            "order": self.order,
            "status": status,
            "reason": reason,
            "labels": labels,
            "instances": [],
            "trace": None,
            "truth": "photos" if truth else None,
            "started": f"2030-01-02T03:04:{self.order % 60:02}+00:00",
            "cell": {"method": {"name": solver, "overrides": overrides}},
        }
        if tuning:
            record["tuning"] = tuning
        if traceback:
            record["traceback"] = traceback
        arrays = None
        if status in ("done", "diverged", "timeout"):
            rng = np.random.default_rng(self.order)
            series = self._series(rng, ranked_by, level, rate, truth)
            record["instances"] = [
                {
                    "name": names[index],
                    "status": "diverged" if index in diverged else "done",
                    "reason": "the objective is not finite" if index in diverged else "",
                    "points": 12 if index in diverged else len(POINTS),
                }
                for index in range(count)
            ]
            record["trace"] = {
                "iteration": POINTS.tolist(),
                "seconds": (POINTS * pace).tolist(),
                "stage": [solver] * len(POINTS),
                "series": series,
            }
            noise = rng.normal(scale=np.sqrt(level), size=self.truth.shape)
            arrays = {"x": np.clip(self.truth + noise, 0, 1).astype(np.float32)}
        self.store.write(key, record, arrays)
        self.order += 1
        self.keys.append(key)
        return key

    def _series(self, rng, ranked_by, level, rate, truth):
        spread = np.exp(0.4 * rng.normal(size=len(self.truth)))
        falling = level * spread * (1 + 20 * (POINTS[:, None] + 1) ** -rate)
        series = {
            "objective": 3 * falling,
            "loss": 2 * falling,
            "prior:tv": falling,
            "work": POINTS[:, None] * 5e5,
        }
        series["work"] = np.broadcast_to(series["work"], falling.shape)
        if truth:
            series |= {"mse": falling, "psnr": -10 * np.log10(falling), "ssim": np.exp(-3 * falling)}
            series |= {"feature_error": np.sqrt(falling)}
        if ranked_by == "success":
            series["success"] = (falling < 3 * level).astype(float)
            series["distortion_linf"] = np.full_like(falling, 0.03)
        return {name: values.tolist() for name, values in series.items()}

    def finish(self, study="study: quick\n", environment=None) -> Results:
        self.store.text("study.yaml", study)
        self.store.text("plan.json", json.dumps({"cells": self.keys}))
        if environment is not None:
            self.store.text("environment.json", json.dumps(environment))
        return load(self.store.folder)


METHODS = {
    "adam": {"level": 0.02, "rate": 1.0, "parameters": "lr=0.03"},
    "lbfgs": {"level": 0.015, "rate": 1.4, "pace": 0.006},
    "projected_gradient": {"level": 0.05, "rate": 0.6},
    "momentum": {"level": 0.03, "rate": 0.8},
    "mv2015": {"level": 0.04, "rate": 0.9, "overrides": True},
    "mv2016": {"level": 0.035, "rate": 0.9, "overrides": True},
}
ENVIRONMENT = {
    "python": "3.12",
    "processor": "Abacus 3000",
    "system": "Linux",
    "cores": 2,
    "command": "invbench run quick",
    "networks": {"lenet": {"accuracy": 0.81, "classes": ["cat", "cup"]}},
    "skipped": [{"name": "torn.jpg", "reason": "truncated"}],
}


def tuned(rates=(0.03, 0.01, 0.1), values=(0.4, 0.5, 0.25), seconds=3.5) -> dict:
    """The record of a tuning that chose the best of some learning rates; None stands for a candidate lost."""
    candidates = [
        {"parameters": {"lr": rate}, "value": value, "status": "diverged" if value is None else "done"}
        for rate, value in zip(rates, values, strict=True)
    ]
    chosen = min(
        (index for index, value in enumerate(values) if value is not None), key=lambda index: values[index]
    )
    return {
        "criterion": "objective",
        "better": "lower",
        "images": 4,
        "seconds": seconds,
        "chosen": chosen,
        "candidates": candidates,
    }


CLAIMS = """study: rich
claims:
  - {id: second-order, source: "Nobody 2030, section 2", says: "quasi-Newton steps beat first-order ones",
     ours: {where: {solver: lbfgs, variant: default}, column: mse, reduce: mean},
     against: {where: {solver: adam, variant: default}}, as: ratio, agree: {at_most: 1}}
  - {id: table-1, source: "Nobody 2030, Table 1", says: "the error of the inverting network", paper: 0.5,
     ours: {where: {solver: inverting_network}, column: mse, reduce: mean},
     agree: {within: 0.1, relative: true}}
  - {id: speed, source: "our own target", says: "a method that was not run is fast",
     ours: {where: {solver: admm}, column: seconds, reduce: mean}, agree: {at_most: 1}}
"""


def rich(path: Path, *, side=8, instances=8, layers=("conv1", "pool2", "fc1"), truth=None) -> Results:
    """Tuned variants, offline work, an oracle, claims: everything that a page may show."""
    folder = Folder(path, instances, side, truth)
    for depth, layer in enumerate(layers, start=1):
        for solver, options in METHODS.items():
            options = options | {"level": options["level"] * depth}
            folder.add(solver, layer, **options)
            better = options | {"level": 0.7 * options["level"], "variant": "tuned"}
            lost = (0.4, None, 0.25) if solver == "momentum" else (0.4, 0.5, 0.45 if depth == 2 else 0.25)
            folder.add(solver, layer, **better, tuning=tuned(values=lost))
        network = {"level": 0.025 * depth, "rate": 3.0, "pace": 1e-4, "prepare_seconds": 75.0}
        folder.add("inverting_network", layer, **network, parameters="width=32")
    for solver in ("adam", "lbfgs"):
        options = METHODS[solver] | {"level": 0.005}
        folder.add(solver, layers[-1], **options, trial="preimage", oracle="pooling switches")
    stages = ["conv1", "pool1", "conv2", "pool2", "fc1", "fc2"]
    networks = {"lenet": {"stages": stages}}
    return folder.finish(CLAIMS, ENVIRONMENT | {"networks": networks})


def quick(
    path: Path, *, side=8, instances=8, seeds=(0,), layers=("conv1", "pool2", "fc1"), truth=None
) -> Results:
    """Something like the main job: some layers, a class inversion and an attack; all statuses occur."""
    folder = Folder(path, instances, side, truth)
    refused = {"status": "refused", "reason": "needs a smooth objective: the class prior has kinks"}
    failed = {
        "status": "failed",
        "reason": "RuntimeError: odd shapes",
        "traceback": "Traceback\nRuntimeError",
    }
    diverged = {"status": "diverged", "diverged": (1, 3)}
    for seed in seeds:
        for depth, layer in enumerate(layers, start=1):
            for solver, options in METHODS.items():
                folder.add(solver, layer, seed=seed, **options | {"level": options["level"] * depth})
        for solver, options in METHODS.items():
            outcome = refused if solver == "lbfgs" else {"truth": False}
            kind = {"trial": "class_inversion", "ranked_by": "objective", "seed": seed}
            folder.add(solver, "", **options | kind | outcome)
        for solver, options in METHODS.items():
            outcome = {"momentum": failed, "projected_gradient": diverged}.get(solver, {})
            kind = {"trial": "adversarial", "ranked_by": "success", "seed": seed, "level": 1e-4}
            folder.add(solver, "", **options | kind | outcome)
    return folder.finish(environment=ENVIRONMENT)
