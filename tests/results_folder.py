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
