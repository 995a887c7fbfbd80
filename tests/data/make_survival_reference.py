"""Makes survival_reference.npz: what R's survival and scikit-survival say, for
tests/_survival/test_reference.py.

Run once with scikit-survival 0.28.0: ``python tests/data/make_survival_reference.py``. It is GPL-3:
the package calls it where it is installed, and nothing of it is copied here. Keys that begin with
``r_`` are numbers that R printed, typed from the sources below; the patients they are about come
with lifelines or are written here. The others are scikit-survival's, of simulated patients (seed
0).

Sources of R's numbers, all looked up in November 2026:

rossi
    J. Fox and S. Weisberg, "Cox Proportional-Hazards Regression for Survival Data in R", web
    appendix to An R Companion to Applied Regression
    (https://socialsciences.mcmaster.ca/jfox/Books/Companion/appendices/Appendix-Cox-Regression.pdf):
    `coxph` of week and arrest on seven covariates. The appendix itself could not be opened. The
    coefficients were read in https://github.com/CamDavidsonPilon/lifelines/issues/200, all numbers
    (standard errors, the three tests and the concordance) in a public R notebook that prints
    `summary(coxph(..., method = 'efron'))` of the same data.
lung, sex
    `summary(coxph(Surv(time, status) ~ sex, lung))`:
    https://github.com/CamDavidsonPilon/lifelines/issues/448. `survdiff`: Machine Learning with R
    Cookbook, 2nd ed., "Using the log-rank test"
    (https://www.packtpub.com/en-gb/product/machine-learning-with-r-cookbook-second-edition-9781787284395).
lung, stratified by institution; lung by ph.ecog; aml; concordance
    The recorded output of survival's own tests, https://github.com/therneau/survival:
    tests/cancer.Rout.save at 08139b1 (Cox) and at 14b5ca3 (curves), tests/doaml.Rout.save at
    08139b1, tests/concordance.Rout.save at 14b5ca3.
by hand
    T. Therneau and P. Grambsch, Modeling Survival Data (2000), appendix E: two data sets with ties
    whose Cox likelihood (Efron) is written out; the second has delayed entry. Their formulas are
    what tests/book2.R and tests/book4.R of survival hold R to; here are their values at a
    coefficient of 0, and the estimate that R printed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sksurv.compare import compare_survival
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import (
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
)
from sksurv.nonparametric import cumulative_incidence_competing_risks, kaplan_meier_estimator
from sksurv.util import Surv

N = 240
TAU = 6.0  # years; Uno's C up to here
AUC_TIMES = np.array([1.0, 2.0, 4.0])

ROSSI = {  # fin, age, race, wexp, mar, paro, prio
    "r_rossi_coef": [-0.37942, -0.05744, 0.31390, -0.14980, -0.43370, -0.08487, 0.09150],
    "r_rossi_se": [0.19138, 0.02200, 0.30799, 0.21222, 0.38187, 0.19576, 0.02865],
    "r_rossi_z": [-1.983, -2.611, 1.019, -0.706, -1.136, -0.434, 3.194],
    "r_rossi_p": [0.04742, 0.00903, 0.30812, 0.48029, 0.25606, 0.66461, 0.00140],
    "r_rossi_ratio": [0.68426, 0.94418, 1 / 0.73059, 0.86088, 1 / 1.54296, 0.91863, 1.09581],
    "r_rossi_tests": [33.27, 32.11, 33.53],  # likelihood ratio, Wald, score; 7 degrees of freedom
    "r_rossi_concordance": [0.64],
}
LUNG = {
    "r_lung_sex": [
        -0.5310,
        0.1672,
        0.4237,
        0.816,
    ],  # coefficient, standard error, interval of the ratio
    "r_lung_sex_tests": [10.63, 10.09, 10.33],
    "r_lung_sex_concordance": [0.579],
    "r_lung_logrank": [10.3267, 0.00131116],  # chi², p
    # ph.ecog, ph.karno, pat.karno, wt.loss, sex, age, meal.cal; stratified by inst
    "r_strata_coef": [
        0.7299987,
        0.0130512,
        -0.0140955,
        -0.0148821,
        -0.6612534,
        0.0050920,
        -0.0002398,
    ],
    "r_strata_se": [0.2689397, 0.0137362, 0.0093680, 0.0084811, 0.2339979, 0.0137288, 0.0003019],
    "r_strata_tests": [30.6, 28.15, 30.72],
    # ph.ecog = 1: days, at risk, survival, standard error
    "r_lung_curve": [
        [60, 110, 0.956, 0.0193],
        [90, 104, 0.920, 0.0255],
        [120, 99, 0.876, 0.0310],
        [150, 93, 0.823, 0.0359],
        [180, 82, 0.751, 0.0407],
        [210, 68, 0.666, 0.0450],
        [240, 57, 0.604, 0.0474],
        [270, 53, 0.561, 0.0487],
        [300, 46, 0.527, 0.0495],
        [330, 40, 0.480, 0.0504],
        [365, 34, 0.431, 0.0509],
        [730, 7, 0.114, 0.0388],
    ],
    "r_lung_medians": [306, 199],  # ph.ecog 1 and 2
    "r_lung_pairs": [
        8392,
        4258,
        7137,
    ],  # of ph.ecog: concordant (higher is earlier), discordant, tied
}
AML = {  # many ties; maintained first
    "aml_time": [
        9,
        13,
        13,
        18,
        23,
        28,
        31,
        34,
        45,
        48,
        161,
        5,
        5,
        8,
        8,
        12,
        16,
        23,
        27,
        30,
        33,
        43,
        45,
    ],
    "aml_event": [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1],
    "aml_not_maintained": [0] * 11 + [1] * 12,
    "r_aml_cox": [0.916, 0.512, 3.38],  # coefficient, standard error, likelihood ratio
    "r_aml_logrank": [3.40, 0.0653],
    "r_aml_medians": [31, 23],
}
BY_HAND = {
    "first_time": [9, 1, 1, 6, 6, 8],
    "first_event": [1, 1, 0, 1, 1, 0],
    "first_x": [0, 1, 1, 1, 0, 0],
    "first_slope": [13 / 12],
    "first_information": [1 / 4 + 5 / 36 + 3 / 16],
    "r_first_coef": [1.676857],
    "second_entry": [1, 2, 5, 2, 1, 7, 3, 4, 8, 8],
    "second_time": [2, 3, 6, 7, 8, 9, 9, 9, 14, 17],
    "second_event": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "second_x": [1, 0, 0, 1, 0, 1, 1, 1, 0, 0],
    "second_slope": [1 / 2 + 1 / 4 + 2 * (1 / 5 + 1 / 4) - (1 / 3 + 3 / 5 + 3 / 4)],
    "second_information": [1 / 4 + 2 / 9 + 12 / 25 + 6 / 16 + 4 / 16],
    "r_second_coef": [-2 * 0.0105526],
}


def simulated(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Patients with two causes of an end, three groups, ties and, in part, delayed entry."""
    x = np.column_stack([rng.normal(size=N), rng.integers(0, 2, N), rng.normal(size=N)])
    group = rng.integers(0, 3, N)
    rate = np.exp(0.6 * x[:, 0] + 0.5 * x[:, 1] + 0.3 * (group == 2))
    ends = np.column_stack(
        [rng.exponential(6 / rate), rng.exponential(12, N), rng.uniform(1, 9, N)]
    )
    time = np.ceil(ends.min(axis=1) * 10) / 10  # ties
    cause = np.array([1, 2, 0])[ends.argmin(axis=1)]  # 1 event, 2 competing, 0 censored
    entry = np.floor(rng.uniform(0, 0.8, N) * time * rng.integers(0, 2, N) * 10) / 10
    return {"x": x, "group": group, "time": time, "cause": cause, "entry": entry}


def cox(patients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    y = Surv.from_arrays(patients["cause"] == 1, patients["time"])
    model = CoxPHSurvivalAnalysis(alpha=0, ties="efron").fit(patients["x"], y)
    return {"cox_coef": model.coef_}


def curves(patients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kaplan–Meier with log(−log) intervals, all from the start and with delayed entry; the
    log-rank test of the groups.
    """
    event, time, found = patients["cause"] == 1, patients["time"], {}
    for name, entry in (("km", None), ("km_delayed", patients["entry"])):
        at, survival, interval = kaplan_meier_estimator(
            event, time, time_enter=entry, conf_type="log-log"
        )
        found |= {f"{name}_time": at, f"{name}_survival": survival, f"{name}_interval": interval}
    chi2, p = compare_survival(Surv.from_arrays(event, time), patients["group"])
    return found | {"logrank": np.array([chi2, p])}


def discrimination(patients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Harrell's C, Uno's C and the AUC at given times, of a risk that is no perfect one."""
    event, time = patients["cause"] == 1, patients["time"]
    y, risk = Surv.from_arrays(event, time), np.round(patients["x"][:, 0], 1)  # tied risks, too
    aucs, mean = cumulative_dynamic_auc(y, y, risk, AUC_TIMES)
    return {
        "risk": risk,
        "harrell": np.array([concordance_index_censored(event, time, risk)[0]]),
        "uno": np.array([concordance_index_ipcw(y, y, risk, tau=TAU)[0]]),
        "tau": np.array([TAU]),
        "auc_times": AUC_TIMES,
        "auc": aucs,
        "auc_mean": np.array([mean]),
    }


def incidence(patients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cumulative incidence of both causes, with log(−log) intervals from two estimates of the
    variance.
    """
    found = {}
    for variance in ("Aalen", "Dinse"):
        time, values, interval = cumulative_incidence_competing_risks(
            patients["cause"], patients["time"], conf_type="log-log", var_type=variance
        )
        found |= {"cif_time": time, "cif": values, f"cif_{variance.lower()}": interval}
    return found


if __name__ == "__main__":
    patients = simulated(np.random.default_rng(0))
    typed = {
        key: np.array(value, dtype=np.float64)
        for key, value in (ROSSI | LUNG | AML | BY_HAND).items()
    }
    np.savez_compressed(
        Path(__file__).with_name("survival_reference.npz"),
        **typed,
        **patients,
        **cox(patients),
        **curves(patients),
        **discrimination(patients),
        **incidence(patients),
    )
